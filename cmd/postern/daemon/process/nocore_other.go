//go:build !linux

package process

// NoCore: other systems have other means, outside of the program (ulimit -c 0).
func NoCore() error { return nil }
