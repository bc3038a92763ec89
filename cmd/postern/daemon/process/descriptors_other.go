//go:build !unix

package process

// AllowedDescriptors returns 0, because the limit is not known on this system.
func AllowedDescriptors() uint64 { return 0 }
