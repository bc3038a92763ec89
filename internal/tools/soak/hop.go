package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// hop is a next hop that records in the ledger what it gets, and fails now and then.
type hop struct {
	ledger *ledger
	calm   *atomic.Bool // true: no faults
	faults counts

	ln    net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// The faults, each with its number in 10,000 connections or messages.
var (
	connFaults = []share{{"refuses the connection", 100}, {"greets with 421", 100}, {"is silent for seconds before it greets", 50}}
	mailFaults = []share{{"421 to MAIL", 30}, {"451 to RCPT", 30}, {"550 to RCPT", 20}, {"is silent for seconds at RCPT", 20}, {"closes in the middle of the data", 30},
		{"accepts it and closes before its reply", 40}, {"closes after the data without accepting it", 40}, {"452 after the data", 30}, {"554 after the data", 20},
		{"accepts it and is silent for seconds", 20}, {"sends its reply octet by octet", 30}}
)

type share struct {
	what  string
	count int // in 10,000
}

func draw(list []share) string {
	n := rand.IntN(10000)
	for _, s := range list {
		if n -= s.count; n < 0 {
			return s.what
		}
	}
	return ""
}

func startHop(l *ledger, calm *atomic.Bool) (*hop, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hop{ledger: l, calm: calm, ln: ln, conns: map[net.Conn]bool{}}
	h.wg.Go(h.accept)
	return h, nil
}

func (h *hop) close() {
	h.ln.Close()
	h.mu.Lock()
	for c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}

func (h *hop) accept() {
	for {
		c, err := h.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		h.mu.Lock()
		h.conns[c] = true
		h.mu.Unlock()
		h.wg.Go(func() {
			s := &hopSession{hop: h, conn: c, r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriter(c)}
			s.serve()
			c.Close()
			h.mu.Lock()
			delete(h.conns, c)
			h.mu.Unlock()
		})
	}
}

// fault draws a fault, or none, and counts it.
func (h *hop) fault(list []share) string {
	what := ""
	if !h.calm.Load() {
		what = draw(list)
	}
	if what != "" {
		h.faults.add(what, 1)
	}
	return what
}

// hopSession is a connection to the hop, used by its own goroutine only.
type hopSession struct {
	hop     *hop
	conn    net.Conn
	r       *bufio.Reader
	w       *bufio.Writer
	chunks  bool // a BDAT message has begun
	message incoming
	fault   string // of this message
	faulted bool   // the fault of this connection has happened
}

var errClosed = errors.New("the next hop closes the connection")

func (s *hopSession) serve() {
	switch s.hop.fault(connFaults) {
	case "refuses the connection":
		reset(s.conn)
		return
	case "greets with 421":
		s.reply("421 4.3.2 soak: not now")
		_ = s.w.Flush()
		return
	case "is silent for seconds before it greets":
		s.faulted = true
		pause(1, 4)
	}
	s.reply("220 hop.example.com ESMTP")
	for {
		if s.r.Buffered() == 0 && s.w.Flush() != nil {
			return
		}
		line, err := s.r.ReadSlice('\n')
		if err != nil {
			return
		}
		if err := s.command(bytes.ToUpper(bytes.TrimSpace(line))); err != nil {
			return
		}
	}
}

func (s *hopSession) reply(line string) { _, _ = s.w.WriteString(line + "\r\n") }

func (s *hopSession) command(line []byte) error {
	verb, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(verb) {
	case "EHLO":
		more := ""
		if rand.IntN(2) == 0 {
			more = "250-CHUNKING\r\n"
		}
		s.reply("250-hop.example.com\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 104857600\r\n" + more + "250 ENHANCEDSTATUSCODES")
	case "MAIL":
		s.fault, s.faulted = s.hop.fault(mailFaults), false
		if s.fault == "421 to MAIL" {
			s.reply("421 4.3.2 soak: closing")
			_ = s.w.Flush()
			return errClosed
		}
		s.reply("250 2.1.0 Ok")
	case "RCPT":
		s.rcpt()
	case "DATA":
		s.reply("354 Go on")
		if err := s.w.Flush(); err != nil {
			return err
		}
		s.message = newIncoming()
		if err := s.data(); err != nil {
			return err
		}
		return s.end()
	case "BDAT":
		return s.chunk(rest)
	case "RSET", "NOOP":
		s.chunks = false
		s.reply("250 2.0.0 Ok")
	case "QUIT":
		s.reply("221 2.0.0 Bye")
		_ = s.w.Flush()
		return errClosed
	default:
		s.reply("500 5.5.2 soak: what?")
	}
	return nil
}

func (s *hopSession) rcpt() {
	switch s.fault {
	case "451 to RCPT":
		s.reply("451 4.7.1 soak: not this one now")
		return
	case "550 to RCPT":
		s.reply("550 5.1.1 soak: no such user")
		return
	case "is silent for seconds at RCPT":
		if !s.faulted {
			pause(1, 4)
		}
		s.faulted = true
	}
	s.reply("250 2.1.5 Ok")
}

// data reads the message up to the final dot.
func (s *hopSession) data() error {
	begin := true
	for n := 0; ; {
		line, err := s.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if begin && len(line) > 0 && line[0] == '.' {
			if string(line) == ".\r\n" {
				return nil
			}
			line = line[1:]
		}
		begin = err == nil
		s.message.write(line)
		if n += len(line); n > 300 && s.fault == "closes in the middle of the data" {
			reset(s.conn)
			return errClosed
		}
	}
}

// chunk reads a chunk of BDAT (RFC 3030).
func (s *hopSession) chunk(rest []byte) error {
	size, last := 0, false
	for _, f := range bytes.Fields(rest) {
		if string(f) == "LAST" {
			last = true
			continue
		}
		for _, c := range f {
			size = size*10 + int(c-'0')
		}
	}
	if !s.chunks {
		s.message, s.chunks = newIncoming(), true
	}
	if s.fault == "closes in the middle of the data" {
		reset(s.conn)
		return errClosed
	}
	if _, err := io.CopyN(&s.message, s.r, int64(size)); err != nil {
		return err
	}
	if !last {
		s.reply("250 2.0.0 Ok")
		return nil
	}
	s.chunks = false
	return s.end()
}

// end accepts the message, or carries out its fault.
func (s *hopSession) end() error {
	id, body := s.message.finish()
	switch s.fault {
	case "452 after the data":
		s.reply("452 4.3.1 soak: no room")
		return nil
	case "554 after the data":
		s.reply("554 5.7.1 soak: not wanted")
		return nil
	case "closes after the data without accepting it":
		reset(s.conn)
		return errClosed
	case "accepts it and closes before its reply":
		s.hop.ledger.took(id, body, true, true)
		reset(s.conn)
		return errClosed
	}
	slow := s.fault == "accepts it and is silent for seconds" || s.fault == "sends its reply octet by octet"
	s.hop.ledger.took(id, body, false, s.faulted || slow)
	const ok = "250 2.0.0 Ok: soaked"
	switch s.fault {
	case "accepts it and is silent for seconds":
		pause(1, 4)
	case "sends its reply octet by octet":
		for _, c := range []byte(ok) {
			_ = s.w.WriteByte(c)
			if err := s.w.Flush(); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		s.reply("")
		return nil
	}
	s.reply(ok)
	return nil
}
