package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
)

// What the milter that does nothing agrees to: the same as Postern with the default bundle, so that both are asked as
// often (SMFIP_*). MAIL, RCPT and end of message are answered.
const (
	nullProtocol = 1<<4 | 1<<7 | 1<<8 | 1<<9 | 1<<12 | 1<<13 | 1<<16 | 1<<17 | 1<<18 | 1<<19 | 1<<20 // NOBODY, NR_HDR, NOUNKNOWN, NODATA, NR_CONN, NR_HELO, NR_DATA, NR_UNKN, NR_EOH, NR_BODY, HDR_LEADSPC
	answered     = "MRE"
)

// serveNull accepts everything until the process is ended.
func serveNull(spec string) error {
	network, address, _ := strings.Cut(spec, ":")
	ln, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if network == "unix" {
		// Postfix's user has to connect.
		if err := syscall.Chmod(address, 0o666); err != nil {
			return err
		}
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := nullConnection(c); err != nil && err != io.EOF {
				fmt.Println(err)
			}
		}()
	}
}

// quick asks for acknowledgements at once before every read, as Postern does: otherwise a TCP milter waits 40 ms a message.
type quick struct {
	net.Conn
	raw syscall.RawConn
}

func (q quick) Read(p []byte) (int, error) {
	const tcpQuickAck = 12
	_ = q.raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpQuickAck, 1) })
	return q.Conn.Read(p)
}

func nullConnection(c net.Conn) error {
	in := bufio.NewReaderSize(c, 8<<10)
	if t, ok := c.(*net.TCPConn); ok {
		raw, err := t.SyscallConn()
		if err != nil {
			return err
		}
		in = bufio.NewReaderSize(quick{c, raw}, 8<<10)
	}
	frame := make([]byte, 1<<16)
	for {
		if _, err := io.ReadFull(in, frame[:4]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(frame)
		if n == 0 || int(n) > len(frame) {
			return fmt.Errorf("a frame of %d octets", n)
		}
		if _, err := io.ReadFull(in, frame[:n]); err != nil {
			return err
		}
		var err error
		switch cmd := frame[0]; {
		case cmd == 'O' && n == 13:
			offered := binary.BigEndian.Uint32(frame[9:])
			out := append([]byte{0, 0, 0, 13, 'O'}, frame[1:5]...)
			out = binary.BigEndian.AppendUint32(out, 0)
			_, err = c.Write(binary.BigEndian.AppendUint32(out, offered&nullProtocol))
		case cmd == 'Q':
			return nil
		case strings.IndexByte(answered, cmd) >= 0:
			_, err = c.Write([]byte{0, 0, 0, 1, 'c'})
		}
		if err != nil {
			return err
		}
	}
}
