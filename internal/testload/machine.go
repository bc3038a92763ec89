package testload

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Machine says where the figures come from, and how busy it was besides.
func Machine() string {
	load := "unknown"
	if now, ok := LoadAverage(); ok {
		load = fmt.Sprint(now)
	}
	return fmt.Sprintf("%s, load average at the end %s", Processor(), load)
}

// Processor names the processors and the version of Go.
func Processor() string {
	model := "unknown processor"
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), model, runtime.Version())
}

// LoadAverage is the number of processes that ran or waited for a processor, on average over the last minute. ok is false where the
// system does not tell.
func LoadAverage() (load float64, ok bool) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(b), " ")
	load, err = strconv.ParseFloat(first, 64)
	return load, err == nil
}
