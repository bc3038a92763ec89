//go:build unix

package process

import "syscall"

// AllowedDescriptors returns how many files this process may open, or 0 if that is not known. When the program starts, Go raises the soft
// limit to the hard one.
func AllowedDescriptors() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return uint64(l.Cur)
}
