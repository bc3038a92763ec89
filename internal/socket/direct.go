//go:build linux && !386 && !s390x

package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// Direct is c with direct system calls where c is a TCP or unix stream socket of package net, else c itself. Closing,
// deadlines, addresses, errors and use by several goroutines are as before. The result has the methods CloseWrite and
// SyscallConn of what it stands for.
func Direct(c net.Conn) net.Conn {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return c
	}
	s := c.(stream)
	raw, err := s.SyscallConn()
	if err != nil {
		return c // it is closed
	}
	d := &direct{stream: s, raw: raw}
	d.in.name, d.in.call = "read", d.in.read
	d.out.name, d.out.call = "write", d.out.write
	return d
}

// stream is what *net.TCPConn and *net.UnixConn have in common.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

type direct struct {
	stream
	raw     syscall.RawConn
	in, out transfer
}

// Read implements net.Conn.
func (d *direct) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return d.stream.Read(p)
	}
	n, err := d.in.do(d.raw.Read, p)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, d.told("read", err)
}

// Write implements net.Conn.
func (d *direct) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return d.stream.Write(p)
	}
	n, err := d.out.do(d.raw.Write, p)
	return n, d.told("write", err)
}

// told is err as package net would say it.
func (d *direct) told(op string, err error) error {
	if err == nil {
		return nil
	}
	if raw, ok := err.(*net.OpError); ok { // "raw-read": closed, or past the deadline
		err = raw.Err
	}
	return &net.OpError{Op: op, Net: d.LocalAddr().Network(), Source: d.LocalAddr(), Addr: d.RemoteAddr(), Err: err}
}

// transfer is one Read or Write at a time.
type transfer struct {
	name  string
	call  func(fd uintptr) bool // kept, since a closure made anew for each would be garbage
	mu    sync.Mutex
	p     []byte
	n     int // octets of p that are done
	errno syscall.Errno
}

func (t *transfer) do(whenReady func(func(uintptr) bool) error, p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.n, t.errno = p, 0, 0
	err = whenReady(t.call)
	t.p = nil
	if t.errno != 0 {
		err = os.NewSyscallError(t.name, t.errno)
	}
	return t.n, err
}

// read reports whether it is done; otherwise it is called again when there is something.
func (t *transfer) read(fd uintptr) bool {
	t.n, t.errno = transferred(read, fd, t.p)
	return t.done()
}

// write reports whether it is done; otherwise it is called again when there is room.
func (t *transfer) write(fd uintptr) bool {
	for t.n < len(t.p) && t.errno == 0 {
		var n int
		n, t.errno = transferred(write, fd, t.p[t.n:])
		t.n += n
	}
	return t.done()
}

func (t *transfer) done() bool {
	if t.errno == syscall.EAGAIN {
		t.errno = 0
		return false
	}
	return true
}

// atOnce is the most that one system call is asked for: what it takes is not to hold up others for long.
const atOnce = 256 << 10

// transferred calls f, read(2) or write(2) of a descriptor that does not block, until no signal comes between.
func transferred(f func(fd uintptr, p []byte) (int, syscall.Errno), fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, errno := f(fd, p[:min(len(p), atOnce)])
		switch errno {
		case 0:
			return n, 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// peek is recv(2) of an octet that stays where it is.
func peek(fd uintptr) syscall.Errno {
	var one [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno
}

// QuickAck returns a function that makes the kernel acknowledge at once what arrives next (tcp(7), TCP_QUICKACK); the
// flag does not last, so it is called before each read. nil for anything but TCP.
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
	const quickAck = 12 // TCP_QUICKACK
	set := func(fd uintptr) {
		on := int32(1)
		_, _, _ = syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.IPPROTO_TCP, quickAck, uintptr(unsafe.Pointer(&on)), 4, 0)
	}
	return func() { _ = raw.Control(set) } // a failure costs time only, and a closed socket shows in the read
}
