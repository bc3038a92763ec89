package testload

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine says where the figures come from, and how busy it was besides.
func Machine() string {
	model := "unknown processor"
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	busy, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(busy))
	load := "unknown"
	if len(fields) > 2 {
		load = strings.Join(fields[:3], " ")
	}
	return fmt.Sprintf("%d × %s, %s, load average at the end %s", runtime.NumCPU(), model, runtime.Version(), load)
}
