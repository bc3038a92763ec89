package kill

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// killCopy is one message that arrived somewhere.
type killCopy struct {
	to   []string // sorted, without brackets
	text string   // as it came, dots unstuffed
}

// killHop is a next hop, SMTP or LMTP, that delivers each message before it answers, and pauses in between. So a sender may be
// killed when the message is delivered and not answered.
type killHop struct {
	url    string
	lmtp   bool
	arrive func(killCopy)
	refuse func(text string) bool // such a message is answered with 554
	wg     sync.WaitGroup
	mu     sync.Mutex
	open   map[net.Conn]bool
}

// startKillHop listens until the test ends.
func startKillHop(t *testing.T, lmtp bool, refuse func(string) bool, arrive func(killCopy)) *killHop {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &killHop{url: "smtp://" + ln.Addr().String(), lmtp: lmtp, arrive: arrive, refuse: refuse, open: map[net.Conn]bool{}}
	if lmtp {
		h.url = "lmtp://" + ln.Addr().String()
	}
	h.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.open[c] = true
			h.mu.Unlock()
			h.wg.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		h.mu.Lock()
		for c := range h.open {
			c.Close()
		}
		h.mu.Unlock()
		h.wg.Wait()
	})
	return h
}

func (h *killHop) serve(c net.Conn) {
	defer func() {
		c.Close()
		h.mu.Lock()
		delete(h.open, c)
		h.mu.Unlock()
	}()
	c.SetDeadline(time.Now().Add(time.Hour))
	rd := bufio.NewReaderSize(c, 64<<10)
	io.WriteString(c, "220 hop.example ESMTP\r\n")
	var to []string
	for {
		line, err := rd.ReadString('\n')
		if err != nil {
			return
		}
		reply := "250 2.0.0 Ok\r\n"
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "EHLO", "LHLO":
			reply = "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n250 SIZE 0\r\n"
		case "MAIL", "RSET":
			to = nil
		case "RCPT":
			_, to1, _ := strings.Cut(line, "<")
			to1, _, _ = strings.Cut(to1, ">")
			to = append(to, to1)
		case "DATA":
			io.WriteString(c, "354 Go on\r\n")
			if !h.take(c, rd, to) {
				return
			}
			continue
		case "QUIT":
			io.WriteString(c, "221 2.0.0 Bye\r\n")
			return
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

// take reads a message to its end and answers for it, by LMTP for each recipient (RFC 2033 §4.2).
func (h *killHop) take(c net.Conn, rd *bufio.Reader, to []string) bool {
	text, err := readStuffed(rd)
	if err != nil {
		return false // no end of data, no message
	}
	reply := "250 2.0.0 Ok: taken\r\n"
	if h.refuse != nil && h.refuse(text) {
		reply = "554 5.6.0 Not that\r\n"
	} else {
		pause()
		to = slices.Clone(to)
		slices.Sort(to)
		h.arrive(killCopy{to, text})
	}
	pause()
	if h.lmtp {
		reply = strings.Repeat(reply, len(to))
	}
	_, err = io.WriteString(c, reply)
	return err == nil
}

// pause is up to 3 ms, or none.
func pause() {
	if d := rand.IntN(6); d > 2 {
		time.Sleep(time.Duration(rand.IntN(1000*(d-2))) * time.Microsecond)
	}
}

// readStuffed reads up to the end of data and takes the dots away.
func readStuffed(rd *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := rd.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == ".\r\n" {
			return b.String(), nil
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
}

// takeMaildir delivers the messages in new and removes them.
func takeMaildir(dir string, arrive func(killCopy)) error {
	entries, err := os.ReadDir(filepath.Join(dir, "new"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // killed before it was made
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, "new", e.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		m := killCopy{text: string(text)}
		for {
			line, rest, _ := strings.Cut(m.text, "\r\n")
			if addr, ok := strings.CutPrefix(line, "X-Envelope-To: <"); ok {
				addr, _, _ = strings.Cut(addr, ">")
				m.to = append(m.to, addr)
			} else if !strings.HasPrefix(line, "Return-Path: ") && !strings.HasPrefix(line, "X-Envelope-Params: ") {
				break
			}
			m.text = rest
		}
		slices.Sort(m.to)
		arrive(m)
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}
