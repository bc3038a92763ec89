//go:build !linux

package process

// NoCore does nothing on this system. The operator can use ulimit -c 0.
func NoCore() error { return nil }
