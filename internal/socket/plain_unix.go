//go:build unix && (!linux || 386 || s390x)

package socket

import (
	"net"
	"syscall"
)

// Direct is c here.
func Direct(c net.Conn) net.Conn { return c }

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
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		yes = err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
	})
	return yes || err != nil, true
}

// QuickAck is nil here: there is nothing to do.
func QuickAck(net.Conn) func() { return nil }
