package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// long is the time limit for events that should come at once. No successful test waits for it.
const long = 30 * time.Second

// openHop is Open that must succeed; the hop is closed with the test.
func openHop(t testing.TB, o Options, targets ...string) Hop {
	t.Helper()
	h, err := Open(o, targets...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// path reads an address in angle brackets.
func path(s string) message.Path {
	p, rest, err := message.ParsePath(s, true)
	if err != nil || rest != "" {
		panic(fmt.Sprintf("%q: %v, rest %q", s, err, rest))
	}
	return p
}

// letter is a message of about size octets with dots to stuff. Its first line identifies it to a fakeHop.
func letter(id string, size int) string { return letterHead(id) + letterBody(size) }

func letterHead(id string) string {
	return "X-Id: " + id + "\r\nSubject: test\r\n\r\n.\r\n..two\r\n"
}

func letterBody(size int) string {
	const line = ".0123456789 the quick brown fox jumps over the lazy dog\r\n"
	return strings.Repeat(line, size/len(line)+1)
}

// bodies are made once, because copies of large ones take most of the time under the race detector.
var bodies sync.Map // by size

// stuffed is text as it goes behind DATA, made the simple way (RFC 5321 §4.5.2).
func stuffed(text string) string {
	return strings.ReplaceAll("\r\n"+text, "\r\n.", "\r\n..")[2:] + ".\r\n"
}

// transfer sends one message to all of to and returns the first failure.
func transfer(h Hop, text, from string, params message.Params, to ...string) (message.Reply, error) {
	return transferFrom(h, int64(len(text)), func() io.Reader { return strings.NewReader(text) }, from, params, to...)
}

func transferFrom(h Hop, size int64, body func() io.Reader, from string, params message.Params, to ...string) (message.Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*long)
	defer cancel()
	tx, err := h.Begin(ctx, Envelope{From: path(from), Params: params, ID: "T1"})
	if err != nil {
		return message.Reply{}, err
	}
	defer tx.Abort()
	for _, r := range to {
		if err := tx.Rcpt(ctx, path(r), nil); err != nil {
			return message.Reply{}, err
		}
	}
	return tx.Data(ctx, size, body)
}

// send is transfer of a letter that has nothing special.
func send(h Hop, id string, size int) error {
	head := letterHead(id)
	rest, ok := bodies.Load(size)
	if !ok {
		rest, _ = bodies.LoadOrStore(size, []byte(letterBody(size)))
	}
	body := func() io.Reader { return io.MultiReader(strings.NewReader(head), bytes.NewReader(rest.([]byte))) }
	_, err := transferFrom(h, int64(len(head)+len(rest.([]byte))), body, "<alice@example.com>", nil, "<bob@example.net>", "<carol@example.net>")
	return err
}

// failure gives the *Error that err must be.
func failure(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	return e
}

// wantError compares the reply, the stage and whether the outcome is certain.
func wantError(t testing.TB, err error, stage, reply string) *Error {
	t.Helper()
	e := failure(t, err)
	if e.Stage != stage || e.Reply.String() != reply || e.Uncertain {
		t.Errorf("got %q at %s (uncertain: %v, cause: %v), want %q at %s", e.Reply, e.Stage, e.Uncertain, e.Cause, reply, stage)
	}
	return e
}
