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

// The null milter negotiates the same protocol steps as Postern with the default bundle (SMFIP_*), so that Postfix calls
// both equally often. It answers MAIL, RCPT and the end of the message.
const (
	nullProtocol = 1<<4 | 1<<7 | 1<<8 | 1<<9 | 1<<12 | 1<<13 | 1<<16 | 1<<17 | 1<<18 | 1<<19 | 1<<20 // NOBODY, NR_HDR, NOUNKNOWN, NODATA, NR_CONN, NR_HELO, NR_DATA, NR_UNKN, NR_EOH, NR_BODY, HDR_LEADSPC
	answered     = "MRE"
)

// serveNull is a milter that accepts everything. It runs until the process is ended.
func serveNull(spec string) error {
	network, address, _ := strings.Cut(spec, ":")
	ln, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if network == "unix" {
		// The user that Postfix runs as must be able to connect.
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

// quickAck asks the kernel before every read to acknowledge data at once, as Postern does. Without it, a TCP milter waits 40 ms
// for each message.
type quickAck struct {
	net.Conn
	raw syscall.RawConn
}

func (q quickAck) Read(p []byte) (int, error) {
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
		in = bufio.NewReaderSize(quickAck{c, raw}, 8<<10)
	}
	frame := make([]byte, 1<<16)
	for {
		if _, err := io.ReadFull(in, frame[:4]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(frame)
		if n == 0 || int(n) > len(frame) {
			return fmt.Errorf("frame of %d octets: 1 to %d are possible", n, len(frame))
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
