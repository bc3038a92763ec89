package main

import (
	"os"
	"runtime/debug"
)

// tune sets the garbage collector as measured (docs/performance.md), unless the environment says otherwise: policy
// evaluation makes much short-lived garbage and the live heap is small, so collecting less often is what pays.
func tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 << 30)
	}
}
