package decisionlog

import (
	"net/netip"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// Entry is one line before it is encoded. It shares no memory that others write to.
type Entry struct {
	id         string
	number     uint64 // req_id; 0: none
	time       time.Time
	server     engine.Server
	client     netip.Addr
	login      string
	from       message.Path
	envelope   bool
	recipients int
	utf8       bool           // SMTPUTF8 was asked for
	failure    engine.Verdict // where policy cannot decide
	decision   engine.Decision
	input      interface{ AppendJSON([]byte) []byte }

	octets int        // weight in the queue
	done   chan error // strict: told when the line is written
}

// NewEntry copies from a record what the line needs. It allocates once and encodes nothing.
func NewEntry(r engine.Record) *Entry {
	t := r.Transaction
	e := &Entry{id: t.ID, time: t.Now, server: t.Server, client: t.Client.IP, decision: *r.Decision, input: r.Input, failure: t.Failure}
	if t.Auth != nil {
		e.login = t.Auth.Login
	}
	if t.Envelope != nil {
		e.envelope, e.from, e.recipients = true, t.Envelope.From, len(t.Envelope.To)
		_, e.utf8 = t.Envelope.FromParams["SMTPUTF8"]
	}
	e.octets = 1024
	if sized, ok := r.Input.(interface{ Octets() int }); ok {
		e.octets += sized.Octets()
	}
	return e
}

// AppendJSON appends the line without its line end, by the zero Mask and without labels, of at most DefaultLine octets. Each call makes a new decision_id.
func (e *Entry) AppendJSON(dst []byte) []byte {
	enc, err := newEncoder(Mask{}, nil, 0)
	if err != nil {
		panic(err) // the zero Mask has no errors
	}
	return enc.line(dst, e)
}
