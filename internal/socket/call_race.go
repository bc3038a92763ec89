//go:build linux && !386 && !s390x && race

package socket

import (
	"errors"
	"syscall"
)

// The race detector has to see that what was written before a write happens before what follows the read at the other end;
// package syscall tells it.

func read(fd uintptr, p []byte) (int, syscall.Errno) { return errnoOf(syscall.Read(int(fd), p)) }

func write(fd uintptr, p []byte) (int, syscall.Errno) { return errnoOf(syscall.Write(int(fd), p)) }

func errnoOf(n int, err error) (int, syscall.Errno) {
	if err == nil {
		return n, 0
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = syscall.EIO
	}
	return n, errno
}
