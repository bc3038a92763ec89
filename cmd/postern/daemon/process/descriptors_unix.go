//go:build unix

package process

import "syscall"

// AllowedDescriptors is how many files this process may open; 0: that is not known. Go has raised the soft limit to the hard one
// when the program started.
func AllowedDescriptors() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return uint64(l.Cur)
}
