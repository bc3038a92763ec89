//go:build unix && (!linux || 386 || s390x)

package socket

import (
	"errors"
	"net"
	"syscall"
)

// Direct is c here.
func Direct(c net.Conn) net.Conn { return c }

// QuickAck is nil here: there is nothing to do.
func QuickAck(net.Conn) func() { return nil }

// peek is recv(2) of an octet that stays where it is.
func peek(fd uintptr) (errno syscall.Errno) {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	if err != nil && !errors.As(err, &errno) {
		errno = syscall.EIO
	}
	return errno
}
