package decisionlog

import (
	"bytes"
	"sync"
	"time"
)

// pack is the lines of one request.
type pack struct {
	text  []byte // each with its line end
	lines int
	since time.Time // of the first line
}

// halves splits a pack of two or more lines.
func (p *pack) halves() (a, b *pack) {
	n := 0
	for range p.lines / 2 {
		n += bytes.IndexByte(p.text[n:], '\n') + 1
	}
	return &pack{p.text[:n], p.lines / 2, p.since}, &pack{p.text[n:], p.lines - p.lines/2, p.since}
}

// uploadBuffer holds the lines that wait for upload. The writer adds to it, and the uploader takes from it.
type uploadBuffer struct {
	batch, limit int // octets
	interval     time.Duration
	ready        chan struct{} // a pack is full, or there is a first line to wait for

	mu     sync.Mutex
	full   []*pack // the oldest first
	open   *pack   // nil: empty
	octets int     // of all lines, including those that were taken and not sent yet
}

// add adds lines and returns how many were lost. The oldest lines are dropped for the newest; a line that is larger than the
// buffer is dropped itself.
func (b *uploadBuffer) add(lines []byte, now time.Time) (lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wake := b.open == nil
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n') + 1
		line := lines[:n]
		lines = lines[n:]
		for b.octets+n > b.limit && len(b.full) > 0 {
			b.octets -= len(b.full[0].text)
			lost += b.full[0].lines
			b.full = b.full[1:]
		}
		if b.octets+n > b.limit {
			lost++
			continue
		}
		if b.open != nil && len(b.open.text)+n > b.batch {
			b.full, b.open, wake = append(b.full, b.open), nil, true
		}
		if b.open == nil {
			b.open = &pack{since: now}
		}
		b.open.text = append(b.open.text, line...)
		b.open.lines++
		b.octets += n
	}
	if wake {
		select {
		case b.ready <- struct{}{}:
		default:
		}
	}
	return lost
}

// take returns the oldest pack that is due, or nil and the time until one is. With all, every pack is due.
func (b *uploadBuffer) take(now time.Time, all bool) (p *pack, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.full) > 0:
		p, b.full = b.full[0], b.full[1:]
	case b.open == nil:
		return nil, time.Hour
	case !all && now.Sub(b.open.since) < b.interval:
		return nil, b.interval - now.Sub(b.open.since)
	default:
		p, b.open = b.open, nil
	}
	return p, 0
}

// sent releases the space of p, which was taken.
func (b *uploadBuffer) sent(p *pack) {
	b.mu.Lock()
	b.octets -= len(p.text)
	b.mu.Unlock()
}
