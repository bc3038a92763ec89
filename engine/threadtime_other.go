//go:build !linux

package engine

import "time"

// threadTime returns 0: on this system nothing is measured, and only smokeTime bounds a smoke decision.
func threadTime() time.Duration { return 0 }
