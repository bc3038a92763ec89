package main

import (
	"bytes"
	"crypto/sha256"
	"io"
)

// taking is a message that is being read; only its number and the hash of its body are kept.
type taking struct {
	id   int
	body hasher
	head []byte // of the line of the header that has not ended
	in   bool   // the header has ended
}

type hasher interface {
	io.Writer
	Sum([]byte) []byte
}

func newTaking() taking { return taking{id: -1, body: sha256.New()} }

func (t *taking) write(p []byte) { _, _ = t.Write(p) }

// Write implements io.Writer.
func (t *taking) Write(p []byte) (int, error) {
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

func (t *taking) finish() (int, sum) { return t.id, sum(t.body.Sum(nil)[:8]) }
