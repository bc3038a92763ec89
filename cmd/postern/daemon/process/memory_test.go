package process

import (
	"runtime/debug"
	"testing"
)

// TestConfigureGC: the environment comes before the program's own settings.
func TestConfigureGC(t *testing.T) {
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	before, limit := percent(), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(before); debug.SetMemoryLimit(limit) }()
	t.Setenv("GOMEMLIMIT", "1GiB")
	t.Setenv("GOGC", "70")
	debug.SetGCPercent(70)
	ConfigureGC()
	if got := percent(); got != 70 || debug.SetMemoryLimit(-1) != limit {
		t.Errorf("%d %%, %d bytes, though the environment sets them", got, debug.SetMemoryLimit(-1))
	}
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("GOGC", "")
	ConfigureGC()
	if got := percent(); got != gcPercent || debug.SetMemoryLimit(-1) != memoryLimit {
		t.Errorf("%d %%, %d bytes; want %d and %d", got, debug.SetMemoryLimit(-1), gcPercent, memoryLimit)
	}
}

// TestReleasable: memory is released only where the process is idle, much is to be gained, and the last release did not
// already show that it cannot be had.
func TestReleasable(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		m    memoryUse
		want bool
	}{
		"busy":                  {memoryUse{recent: 17 * mib, resident: 900 * mib, needed: 100 * mib}, false},
		"idle, much to gain":    {memoryUse{recent: 1 * mib, resident: 900 * mib, needed: 100 * mib}, true},
		"idle, little to gain":  {memoryUse{recent: 1 * mib, resident: 160 * mib, needed: 100 * mib}, false},
		"idle, tried before":    {memoryUse{recent: 1 * mib, resident: 900 * mib, needed: 100 * mib, floor: 900 * mib}, false},
		"idle, has grown since": {memoryUse{recent: 1 * mib, resident: 1000 * mib, needed: 100 * mib, floor: 900 * mib}, true},
	} {
		if got := c.m.releasable(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	m := memoryUse{recent: 17 * mib, floor: 900 * mib}
	if m.releasable(); m.floor != 0 {
		t.Error("a busy process keeps the floor of an earlier release")
	}
}
