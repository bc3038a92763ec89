//go:build unix

package socket

import (
	"net"
	"syscall"
)

// Readable reports whether c has data to read, or has ended. It does not wait and takes nothing from the connection. ok is
// false where this cannot be found out, as for a connection that is no socket.
func Readable(c net.Conn) (readable, ok bool) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true, true // closed
	}
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		readable = err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
	})
	return readable || err != nil, true
}
