package socket

import (
	"net"
	"syscall"
)

// QuickAck returns a function that makes the kernel acknowledge the data that arrives next at once instead of after a delay
// (tcp(7), TCP_QUICKACK). The kernel resets the option by itself, so the function is to be called before each read. QuickAck
// returns nil where c is not TCP.
func QuickAck(c net.Conn) func() {
	if c.LocalAddr().Network() != "tcp" {
		return nil
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	set := func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}
	return func() { _ = raw.Control(set) } // a failure only costs time; a closed socket shows in the read
}
