//go:build unix

package socket

import (
	"net"
	"syscall"
)

// Readable reports, without waiting and without taking anything, whether c has something to read or has ended. ok is false
// where this cannot be told.
func Readable(c net.Conn) (yes, ok bool) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true, true
	}
	err = raw.Control(func(fd uintptr) {
		errno := peek(fd)
		yes = errno != syscall.EAGAIN && errno != syscall.EWOULDBLOCK && errno != syscall.EINTR
	})
	return yes || err != nil, true
}
