package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
)

// letter is a message to be sent.
type letter struct {
	id        int
	plan      fate
	sender    string // envelope
	from      string // header
	to        []string
	head      string // header, with the empty line
	body      []byte
	bdat      bool
	pipelined bool
	small     bool // its latency counts
}

// Sizes of bodies: share of 10,000 bodies have at most that many octets.
var sizes = []struct{ share, octets int }{{6000, 4 << 10}, {9000, 16 << 10}, {9700, 64 << 10}, {9960, 512 << 10}, {9995, 2 << 20}, {10000, 10 << 20}}

const smallOctets = 64 << 10

// text returns the text that bodies are cut from: lines of up to 998 octets, some of them empty or with a leading dot.
func text(r *rand.Rand) []byte {
	var b bytes.Buffer
	const letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,;:-=<>0123456789"
	for b.Len() < 11<<20 {
		n := r.IntN(78)
		switch r.IntN(200) {
		case 0:
			n = 998
		case 1:
			n = 0
		case 2, 3:
			b.WriteByte('.')
		}
		at := r.IntN(len(letters))
		for range n {
			b.WriteByte(letters[at])
			at = (at*7 + 3) % len(letters)
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

// writer makes letters from text. open assigns each its number.
type writer struct {
	text []byte
	open func(plan fate, body sum) int
}

// body returns whole lines from a random place in the text, at most that many octets.
func (w *writer) body(r *rand.Rand, most int) []byte {
	n, size := r.IntN(10000), 0
	for i, s := range sizes {
		if n < s.share {
			least := 512
			if i > 0 {
				least = sizes[i-1].octets
			}
			size = least + r.IntN(s.octets-least)
			break
		}
	}
	size = min(size, most)
	from := r.IntN(len(w.text) - size - 1)
	begin := from + bytes.IndexByte(w.text[from:], '\n') + 1
	end := bytes.LastIndexByte(w.text[:max(begin, from+size)], '\n') + 1
	return w.text[begin:max(begin, end)]
}

// write makes a letter of login, with a body of at most that many octets.
func (w *writer) write(r *rand.Rand, login string, most int) *letter {
	l := &letter{bdat: r.IntN(100) < 30, pipelined: r.IntN(100) < 60, body: w.body(r, most)}
	l.sender = login + "@example.com"
	l.from = l.sender
	planned := "pass"
	switch n := r.IntN(200); {
	case n < 4:
		l.plan = hold
	case n < 6:
		l.plan = refuse
	case n < 8:
		l.plan = postpone
	case n < 10: // another user in the header, which the default bundle refuses
		l.plan, l.from = refuse, "ceo@example.com"
	case n < 12:
		l.plan, l.sender = refuse, "ceo@example.com"
	}
	if l.from == l.sender {
		planned = l.plan.String()
	}
	for i := range recipients(r) {
		l.to = append(l.to, fmt.Sprintf("r%d.%d@example.net", i, r.IntN(1000)))
	}
	l.id = w.open(l.plan, sumOf(l.body))
	l.small = len(l.body) <= smallOctets
	l.head = header(r, l, planned)
	return l
}

// recipients: mostly one or a few, at most 50.
func recipients(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 70:
		return 1
	case n < 95:
		return 2 + r.IntN(6)
	default:
		return 8 + r.IntN(43)
	}
}

// header returns a header block. Some lack fields that the default bundle adds.
func header(r *rand.Rand, l *letter, planned string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "X-Soak-Id: %d\r\nX-Soak-Plan: %s\r\nFrom: Soak <%s>\r\nSubject: message %d\r\n", l.id, planned, l.from, l.id)
	fmt.Fprintf(&b, "To: %s\r\n", strings.Join(l.to, ",\r\n "))
	if r.IntN(4) > 0 {
		b.WriteString("Date: Mon, 01 Jun 2026 11:59:00 +0000\r\n")
	}
	if r.IntN(4) > 0 {
		fmt.Fprintf(&b, "Message-ID: <%d@soak.example.com>\r\n", l.id)
	}
	if r.IntN(10) == 0 {
		b.WriteString("Bcc: secret@example.net\r\n")
	}
	for i := range r.IntN(20) {
		fmt.Fprintf(&b, "X-Field-%d: nothing special, but folded\r\n over two lines\r\n", i)
	}
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n")
	return b.String()
}

// idOf returns the message number in a header line, -1 if there is none.
func idOf(line []byte) int {
	id := -1
	if rest, ok := bytes.CutPrefix(line, []byte("X-Soak-Id: ")); ok {
		id = 0
		for _, c := range bytes.TrimSpace(rest) {
			if c < '0' || c > '9' || id > 1<<40 {
				return -1
			}
			id = id*10 + int(c-'0')
		}
	}
	return id
}

// incoming is a message that is being read. Only its number and the hash of its body are kept.
type incoming struct {
	id   int
	body hasher
	head []byte // the unfinished header line
	in   bool   // in the body
}

type hasher interface {
	io.Writer
	Sum([]byte) []byte
}

func newIncoming() incoming { return incoming{id: -1, body: sha256.New()} }

func (t *incoming) write(p []byte) { _, _ = t.Write(p) }

// Write implements io.Writer.
func (t *incoming) Write(p []byte) (int, error) {
	all := len(p)
	for !t.in && len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			t.head = append(t.head, p...)
			return all, nil
		}
		t.head = append(t.head, p[:i+1]...)
		p = p[i+1:]
		if id := idOf(t.head); id >= 0 {
			t.id = id
		}
		t.in = string(t.head) == "\r\n"
		t.head = t.head[:0]
	}
	if len(p) > 0 {
		_, _ = t.body.Write(p)
	}
	return all, nil
}

func (t *incoming) finish() (int, sum) { return t.id, sum(t.body.Sum(nil)[:8]) }
