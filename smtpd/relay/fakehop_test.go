package relay

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// script is how a fakeHop behaves. The zero value is a good ESMTP server with every extension.
type script struct {
	lmtp, unix bool
	caps       []string    // EHLO keywords; nil: allCaps
	tls        *tls.Config // for STARTTLS, which is then offered; with implicit: from the first octet
	implicit   bool
	say        map[string]string // replies by whole command, or else by its verb; also "greeting", "dot", and for LMTP "dot <path>"
	at         func(c *fakeConn, stage string) (over bool)
}

var allCaps = []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE 10000000", "AUTH PLAIN LOGIN"}

// mail is a message that a fakeHop accepted.
type mail struct {
	from, to string // MAIL's and RCPT's arguments with parameters; of several recipients with "," between
	raw      string // as it came behind 354, end of data included
	conn     int    // which connection, from 1
	tls      bool
}

// fakeHop is a scripted next hop on loopback that keeps what it has accepted.
type fakeHop struct {
	script
	url, addr string
	ln        net.Listener
	quit      chan struct{}
	wg        sync.WaitGroup
	killed    atomic.Int64

	mu        sync.Mutex
	conns     int
	open      map[net.Conn]bool
	lines     []string       // commands
	logins    []string       // mechanism, login, password
	mails     []mail         // committed: end of data seen, 250 said (or about to be)
	committed map[string]int // by X-Id
	whole     map[string]int // end of data seen
	faults    []string       // of the client
}

// startHop listens until the test ends.
func startHop(t testing.TB, s script) *fakeHop {
	t.Helper()
	h := &fakeHop{script: s, quit: make(chan struct{}), open: map[net.Conn]bool{}, committed: map[string]int{}, whole: map[string]int{}}
	network, addr, scheme := "tcp", "127.0.0.1:0", "smtp://"
	switch {
	case s.unix:
		network, addr, scheme = "unix", filepath.Join(t.TempDir(), "s"), "lmtp+unix://"
	case s.lmtp:
		scheme = "lmtp://"
	case s.implicit:
		scheme = "smtps://"
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	h.ln, h.addr = ln, ln.Addr().String()
	h.url = scheme + h.addr
	h.wg.Go(h.accept)
	t.Cleanup(h.stop)
	return h
}

func (h *fakeHop) accept() {
	for {
		nc, err := h.ln.Accept()
		if err != nil {
			return
		}
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(32 << 10) // so that a large message cannot all be on its way
		}
		_ = nc.SetDeadline(time.Now().Add(long))
		h.mu.Lock()
		h.conns++
		c := &fakeConn{hop: h, raw: nc, nc: nc, rd: bufio.NewReader(nc), n: h.conns}
		h.open[nc] = true
		h.mu.Unlock()
		h.wg.Go(func() {
			c.serve()
			_ = nc.Close()
			h.mu.Lock()
			delete(h.open, nc)
			h.mu.Unlock()
		})
	}
}

// stop waits, for a limited time, until every connection has been read to its end. Nothing changes afterwards.
func (h *fakeHop) stop() {
	_ = h.ln.Close()
	select {
	case <-h.quit:
	default:
		close(h.quit)
	}
	cut := time.AfterFunc(2*time.Second, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for nc := range h.open {
			_ = nc.Close()
		}
	})
	h.wg.Wait()
	cut.Stop()
}

func (h *fakeHop) note(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// seen copies what the hop has received so far.
func (h *fakeHop) seen() (conns int, lines, logins []string, mails []mail) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns, append([]string(nil), h.lines...), append([]string(nil), h.logins...), append([]mail(nil), h.mails...)
}

// said reports whether a command with that beginning was received.
func (h *fakeHop) said(prefix string) bool {
	_, lines, _, _ := h.seen()
	for _, l := range lines {
		if strings.HasPrefix(l, prefix) {
			return true
		}
	}
	return false
}

// fakeConn is one connection of a fakeHop; only its goroutine uses it.
type fakeConn struct {
	hop     *fakeHop
	raw, nc net.Conn // nc is under TLS, where it is
	rd      *bufio.Reader
	n       int // which, from 1
	done    int // messages answered
	from    string
	to      []string
}

func (c *fakeConn) at(stage string) bool { return c.hop.at != nil && c.hop.at(c, stage) }

// write reports whether the connection is over.
func (c *fakeConn) write(s string) bool {
	_, err := io.WriteString(c.nc, s)
	return err != nil
}

// answer is the scripted reply, or else def.
func (c *fakeConn) answer(line, verb, def string) string {
	c.hop.mu.Lock()
	defer c.hop.mu.Unlock()
	if s, ok := c.hop.say[line]; ok {
		return s
	}
	if s, ok := c.hop.say[verb]; ok {
		return s
	}
	return def
}

func (c *fakeConn) serve() {
	if c.hop.implicit && (c.at("tls") || !c.handshake()) {
		return
	}
	if c.at("connect") || c.write(c.answer("", "greeting", "220 fake.example ESMTP\r\n")) || c.at("greeting") {
		return
	}
	c.dialogue()
}

// dialogue serves commands until the connection is over.
func (c *fakeConn) dialogue() (over bool) {
	for {
		line, err := c.rd.ReadString('\n')
		if err != nil {
			return true
		}
		line = strings.TrimSuffix(line, "\r\n")
		c.hop.note(func() {
			c.hop.lines = append(c.hop.lines, line)
			if c.rd.Buffered() > 0 && !strings.Contains(strings.Join(c.caps(), " "), "PIPELINING") {
				c.hop.faults = append(c.hop.faults, "pipelined: "+line)
			}
		})
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		if c.command(verb, line) {
			return true
		}
	}
}

func (c *fakeConn) caps() []string {
	if c.hop.caps != nil {
		return c.hop.caps
	}
	return allCaps
}

func (c *fakeConn) command(verb, line string) (over bool) {
	switch verb {
	case "EHLO", "LHLO":
		caps := "250-fake.example\r\n"
		if _, under := c.nc.(*tls.Conn); c.hop.tls != nil && !under {
			caps += "250-STARTTLS\r\n"
		}
		for _, k := range c.caps() {
			caps += "250-" + k + "\r\n"
		}
		return c.at("EHLO") || c.write(c.answer(line, verb, caps+"250 HELP\r\n"))
	case "STARTTLS":
		if c.at("STARTTLS") {
			return true
		}
		reply := c.answer(line, verb, "220 Go on\r\n")
		if c.write(reply) || !strings.HasPrefix(reply, "220") {
			return false
		}
		_, _ = c.rd.Peek(1) // the client's first record
		return c.at("tls") || !c.handshake()
	case "AUTH":
		return c.at("AUTH") || c.auth(line)
	case "MAIL":
		reply := c.answer(line, verb, "250 2.1.0 Ok\r\n")
		if c.from, c.to = "", nil; strings.HasPrefix(reply, "2") {
			c.from = line[len("MAIL FROM:"):]
		}
		return c.at("MAIL") || c.write(reply)
	case "RCPT":
		stage := "RCPT"
		if len(c.to) > 0 {
			stage = "RCPT 2"
		}
		def := "250 2.1.5 Ok\r\n"
		if c.from == "" {
			def = "503 5.5.1 No sender\r\n"
		}
		reply := c.answer(line, verb, def)
		if strings.HasPrefix(reply, "2") {
			c.to = append(c.to, line[len("RCPT TO:"):])
		}
		return c.at(stage) || c.write(reply)
	case "DATA":
		return c.at("DATA") || c.data(c.answer(line, verb, "354 Go on\r\n"))
	case "RSET":
		c.from, c.to = "", nil
		return c.at("RSET") || c.write(c.answer(line, verb, "250 2.0.0 Ok\r\n"))
	case "QUIT":
		return c.at("QUIT") || c.write("221 2.0.0 Bye\r\n") || true
	}
	return c.write(c.answer(line, verb, "500 5.5.1 What?\r\n"))
}

func (c *fakeConn) handshake() bool {
	tc := tls.Server(&replayed{c.raw, c.rd}, c.hop.tls)
	if tc.Handshake() != nil {
		return false
	}
	c.nc, c.rd = tc, bufio.NewReader(tc)
	return true
}

// replayed is a connection of which something has been read already.
type replayed struct {
	net.Conn
	rd *bufio.Reader
}

func (r *replayed) Read(p []byte) (int, error) { return r.rd.Read(p) }

func (c *fakeConn) auth(line string) (over bool) {
	words := strings.Fields(line)
	text := func(s string) string {
		b, _ := base64.StdEncoding.DecodeString(s)
		return strings.ReplaceAll(string(b), "\x00", " ")
	}
	login := words[1] + " " + text(words[2])
	if words[1] == "LOGIN" {
		if c.write(c.answer("", "challenge", "334 UGFzc3dvcmQ6\r\n")) {
			return true
		}
		l, err := c.rd.ReadString('\n')
		if err != nil {
			return true
		}
		login += " " + text(strings.TrimSpace(l))
	}
	c.hop.note(func() { c.hop.logins = append(c.hop.logins, login) })
	return c.write(c.answer(line, "AUTH", "235 2.7.0 Ok\r\n"))
}

// data reads the message and replies, for LMTP once for each recipient.
func (c *fakeConn) data(reply string) (over bool) {
	if c.write(reply) || !strings.HasPrefix(reply, "3") {
		return false
	}
	if c.at("354") {
		return true
	}
	raw, first, id := []byte(nil), true, ""
	for {
		line, err := c.rd.ReadBytes('\n')
		raw = append(raw, line...)
		if err != nil {
			return true
		}
		if v, ok := bytes.CutPrefix(line, []byte("X-Id: ")); ok && first {
			id = strings.TrimSpace(string(v))
		}
		if string(line) == ".\r\n" {
			break
		}
		if first && c.at("body "+id) {
			return true
		}
		first = false
	}
	c.hop.note(func() { c.hop.whole[id]++ })
	return c.at("dot "+id) || c.final(id, string(raw))
}

func (c *fakeConn) final(id, raw string) (over bool) {
	reply := c.answer("", "dot", "250-2.0.0 Ok, queued\r\n250 2.0.0 as 4F2\r\n")
	if c.hop.lmtp {
		def := reply
		reply = ""
		for _, to := range c.to {
			reply += c.answer("dot "+to, "dot", def)
		}
	}
	if strings.HasPrefix(reply, "2") {
		c.commit(id, raw)
	}
	half := len(reply) / 2
	if c.write(reply[:half]) || c.at("answer") || c.write(reply[half:]) {
		return true
	}
	c.from, c.to = "", nil
	c.done++
	return c.at("answered")
}

func (c *fakeConn) commit(id, raw string) {
	_, under := c.nc.(*tls.Conn)
	c.hop.note(func() {
		c.hop.committed[id]++
		c.hop.mails = append(c.hop.mails, mail{c.from, strings.Join(c.to, ","), raw, c.n, under})
	})
}
