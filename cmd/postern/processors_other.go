//go:build !unix

package main

import "time"

// processorTime cannot be told here.
func processorTime() (used time.Duration, ok bool) { return 0, false }
