package smtpd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// recorder is a next hop that keeps what it is given. It fails the test if it is given what no next hop should get.
type recorder struct {
	t testing.TB
	// What it does instead of accepting; nil: it accepts. Set before the first transaction.
	begin      func(relay.Envelope) error
	rcpt       func(message.Path) error
	data       func(context.Context, *letter) (message.Reply, error)
	abort      func()
	extensions *relay.Extensions // nil: all

	mu       sync.Mutex
	letters  []*letter // accepted
	begun    int
	open     int // transactions that have not ended
	discards bool
	short    bool // a message may be unreadable or shorter than announced, and is then refused, as relay does
}

// letter is one transaction at the recorder.
type letter struct {
	hop  *recorder
	env  relay.Envelope
	to   []engine.Recipient
	body []byte
	over bool
}

func (h *recorder) Begin(_ context.Context, env relay.Envelope) (relay.Tx, error) {
	if h.begin != nil {
		if err := h.begin(env); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begun++
	h.open++
	h.same(env.From)
	return &letter{hop: h, env: env}, nil
}

func (h *recorder) Close() error { return nil }

// Extensions are all, unless the test sets others.
func (h *recorder) Extensions(context.Context) (relay.Extensions, bool) {
	if h.extensions != nil {
		return *h.extensions, true
	}
	return relay.Extensions{EightBit: true, UTF8: true, DSN: true}, true
}

// same wants an address to be unchanged by SMTP: the next hop reads what policy has seen.
func (h *recorder) same(p message.Path) {
	if q, rest, err := message.ParsePath(p.String(), true); err != nil || rest != "" || q != p {
		h.t.Errorf("the next hop is given %q, and reads %v %q %v", p.String(), q, rest, err)
	}
}

func (m *letter) Rcpt(_ context.Context, to message.Path, params message.Params) error {
	if m.hop.rcpt != nil {
		if err := m.hop.rcpt(to); err != nil {
			return err
		}
	}
	m.hop.mu.Lock()
	defer m.hop.mu.Unlock()
	m.hop.same(to)
	m.to = append(m.to, engine.Recipient{Path: to, Params: params})
	return nil
}

func (m *letter) Data(ctx context.Context, size int64, body func() io.Reader) (message.Reply, error) {
	defer m.end()
	b, err := m.read(body())
	if m.hop.short && (err != nil || size != b) {
		return message.Reply{}, &relay.Error{Reply: message.MustReply(451, "4.3.0", "Temporary failure, try again later"), Hop: "test", Stage: "data"}
	}
	if err != nil || size != b {
		m.hop.t.Errorf("%d octets came (%v), %d were announced", b, err, size)
	}
	if m.hop.data != nil {
		if r, err := m.hop.data(ctx, m); err != nil || !r.IsZero() {
			return r, err
		}
	}
	m.hop.mu.Lock()
	defer m.hop.mu.Unlock()
	m.hop.letters = append(m.hop.letters, m)
	return message.MustReply(250, "2.0.0", fmt.Sprintf("Ok: queued as %d", len(m.hop.letters))), nil
}

// read takes the message, and wants every line end to be CRLF and no NUL in it.
func (m *letter) read(r io.Reader) (size int64, err error) {
	if m.hop.discards {
		return io.Copy(io.Discard, r)
	}
	m.body, err = io.ReadAll(r)
	if err := message.CheckLines(m.body); err != nil || bytes.IndexByte(m.body, 0) >= 0 {
		m.hop.t.Errorf("the next hop got %q: %v", m.body, err)
	}
	return int64(len(m.body)), err
}

func (m *letter) Abort() {
	m.end()
	if m.hop.abort != nil {
		m.hop.abort()
	}
}

func (m *letter) end() {
	m.hop.mu.Lock()
	defer m.hop.mu.Unlock()
	if !m.over {
		m.over = true
		m.hop.open--
	}
}

// got are the accepted messages.
func (h *recorder) got() []*letter {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*letter(nil), h.letters...)
}

// want fails the test unless exactly the messages with these bodies were accepted, Received and header apart. Nothing may
// be under way any more.
func (h *recorder) want(bodies ...string) {
	h.t.Helper()
	var got []string
	for _, m := range h.got() {
		_, body, _ := strings.Cut(string(m.body), "\r\n\r\n")
		got = append(got, body)
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", bodies) && len(got)+len(bodies) > 0 {
		h.t.Errorf("the next hop got %q, want %q", got, bodies)
	}
}

// refusedBy is a next hop's refusal.
func refusedBy(stage string, code int, status, text string) error {
	return &relay.Error{Reply: message.MustReply(code, status, text), Hop: "test", Stage: stage}
}

// ended fails the test if a transaction is still under way.
func (h *recorder) ended() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open != 0 {
		h.t.Errorf("%d transactions at the next hop have not ended", h.open)
	}
}

// received is the Received field on top of the message, unfolded (RFC 5322 §2.2.3).
func (m *letter) received() string {
	text := strings.NewReplacer("\r\n\t", " ", "\r\n ", " ").Replace(string(m.body))
	field, _, _ := strings.Cut(text, "\r\n")
	return field
}
