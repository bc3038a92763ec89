//go:build unix

package relay

import (
	"net"
	"syscall"
)

// readable reports, without waiting and without taking anything, whether nc has something to read or has ended.
func readable(nc net.Conn) (yes, ok bool) {
	sc, isSys := nc.(syscall.Conn)
	if !isSys {
		return false, false
	}
	raw, err := sc.SyscallConn()
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
