// Package trial takes one whole transaction through the engine without a network: connect, MAIL, each RCPT and the
// message, as a front end would, and says what came of it. `postern eval` and the golden transactions stand on it.
//
// It has no goroutines.
package trial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// Session is who speaks, and over what. The zero value of each field is what is said beside it.
type Session struct {
	Login      string              // "" is not authenticated
	Mechanism  string              // "PLAIN" where empty and Login is not
	Backend    string              // "file" where empty and Login is not
	AuthzID    string              // "" is as Login
	Groups     []string            // of Login
	Attributes map[string][]string // of Login

	Client engine.Client // without IP: 127.0.0.1; without EHLO: "localhost"

	TLS         string              // "1.3"; "" is in the clear
	Cipher      string              // "TLS_AES_128_GCM_SHA256" where empty
	SNI         string              // "": the client asked for none
	Certificate *engine.Certificate // of the client; nil: none
	ImplicitTLS bool                // TLS is there when the client connects, not since STARTTLS

	Hostname string // ours; "localhost" where empty
	Listener string // "eval" where empty
	Door     string // "submission" where empty

	Unknown []string       // dotted paths of facts that the front end could not know, sorted; they are then absent
	Failure engine.Verdict // when policy cannot decide: Defer
}

// Transaction is one message with its session and envelope.
type Transaction struct {
	Session Session
	ID      string
	Now     time.Time
	From    message.Path
	Params  message.Params // of MAIL
	To      []engine.Recipient
	Message []byte // CRLF line ends; header and body
	// Last is the stage after which nothing more is asked; 0: the message.
	Last engine.Stage
}

// Step is one question put to policy.
type Step struct {
	Command  string // "MAIL FROM:<alice@example.com>"
	Decision engine.Decision
}

// Result is what came of a Transaction.
type Result struct {
	Steps []Step
	// Final is the decision that settled the transaction: the first refusal at connect or MAIL, the last refused recipient
	// where all were, else the message's, or where Transaction.Last ends it before, that of the last that was taken.
	Final    engine.Decision
	Envelope *engine.Envelope // as it leaves; nil where the message was not reached
	Before   []byte           // header block as it came
	After    []byte           // header block as it leaves; nil unless accepted or quarantined
	Body     []byte
	// TraceID and Generated are the values that policy saw, for a test that wants to name them.
	Generated engine.Generated
}

// ErrMessage says that the message cannot be read at all; a front end refuses it before policy is asked.
var ErrMessage = errors.New("the message cannot be read")

// Run asks eng at each stage and stops at the first that settles the transaction.
func Run(ctx context.Context, eng *engine.Engine, tx Transaction) (*Result, error) {
	header, end, err := readHeader(tx)
	if err != nil {
		return nil, err
	}
	r := &Result{Before: tx.Message[:end], Body: tx.Message[end:]}
	t := facts(tx)
	t.Policy = eng.Policy()
	if !r.connect(ctx, eng, t, tx) || tx.Last == engine.StageConnect {
		return r, nil
	}
	t.Envelope = &engine.Envelope{From: tx.From, FromParams: tx.Params}
	if !r.ask(ctx, eng, t, engine.StageMail, "MAIL FROM:"+tx.From.String()) || tx.Last == engine.StageMail {
		return r, nil
	}
	var taken engine.Decision
	for _, to := range tx.To {
		t.Recipient = &to
		if r.ask(ctx, eng, t, engine.StageRcpt, "RCPT TO:"+to.Path.String()) {
			t.Envelope.To = append(t.Envelope.To, to)
			taken = r.Final
		}
	}
	if t.Recipient = nil; len(t.Envelope.To) == 0 {
		return r, nil
	}
	if tx.Last == engine.StageRcpt {
		r.Final = taken
		return r, nil
	}
	r.message(ctx, eng, t, header, tx)
	return r, nil
}

// readHeader reads the message's header and says where it ends; there is none in a transaction that ends before.
func readHeader(tx Transaction) (*message.Header, int, error) {
	if tx.Last != 0 && tx.Last < engine.StageMessage {
		return nil, 0, nil
	}
	if err := message.CheckLines(tx.Message); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	end, complete := message.HeaderEnd(tx.Message)
	if !complete {
		end = len(tx.Message)
	}
	header, err := message.ParseHeader(tx.Message[:end], message.Limits{})
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return header, end, nil
}

// connect asks about a client of which nothing is known but its address, and the TLS that it began with.
func (r *Result) connect(ctx context.Context, eng *engine.Engine, t *engine.Transaction, tx Transaction) bool {
	c := *t
	c.Client.EHLO, c.Auth = "", nil
	if !tx.Session.ImplicitTLS {
		c.TLS = nil
	}
	return r.ask(ctx, eng, &c, engine.StageConnect, "connect")
}

// ask puts one question and reports whether the dialogue goes on.
func (r *Result) ask(ctx context.Context, eng *engine.Engine, t *engine.Transaction, s engine.Stage, command string) bool {
	t.Stage = s
	d := eng.Decide(ctx, t)
	r.Steps = append(r.Steps, Step{Command: command, Decision: d})
	r.Final = d
	return d.Verdict != engine.Reject && d.Verdict != engine.Defer
}

func (r *Result) message(ctx context.Context, eng *engine.Engine, t *engine.Transaction, h *message.Header, tx Transaction) {
	r.Generated = engine.Generated{
		Date:      message.FormatDate(tx.Now),
		MessageID: message.NewMessageID(tx.Now, tx.ID, t.Server.Hostname),
	}
	t.Message = &engine.Message{
		Header: h, Size: int64(len(tx.Message)), Generated: r.Generated,
		Body: func(limit int) ([]byte, error) { return r.Body[:min(limit, len(r.Body))], nil },
	}
	if slices.Contains(t.Unknown, "message.size") {
		t.Message.Size = -1
	}
	if slices.Contains(t.Unknown, "message.body") {
		t.Message.Body = nil
	}
	if !r.ask(ctx, eng, t, engine.StageMessage, "end of message") {
		return
	}
	r.Envelope, _ = t.Envelope.Apply(r.Final.Edits)
	edited, err := h.Apply(r.Final.Edits)
	if err != nil {
		r.Final = engine.Decision{Stage: engine.StageMessage, Revision: r.Final.Revision, Err: err}
		return
	}
	r.After = edited.AppendTo(nil)
}

// Bytes of the message as it leaves; nil where it does not.
func (r *Result) Bytes() []byte {
	if r.After == nil {
		return nil
	}
	return bytes.Join([][]byte{r.After, r.Body}, nil)
}

func facts(tx Transaction) *engine.Transaction {
	s := tx.Session
	t := &engine.Transaction{
		ID: tx.ID, Now: tx.Now,
		Server:  engine.Server{Hostname: cmp.Or(s.Hostname, "localhost"), Listener: cmp.Or(s.Listener, "eval"), Door: cmp.Or(s.Door, "submission")},
		Client:  s.Client,
		Unknown: s.Unknown, Failure: s.Failure,
	}
	t.Client.EHLO = cmp.Or(t.Client.EHLO, "localhost")
	if !t.Client.IP.IsValid() {
		t.Client.IP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if s.TLS != "" {
		t.TLS = &engine.TLS{Version: s.TLS, Cipher: cmp.Or(s.Cipher, "TLS_AES_128_GCM_SHA256"), SNI: s.SNI, Client: s.Certificate}
	}
	if s.Login != "" {
		t.Auth = &engine.Auth{Login: s.Login, Mechanism: cmp.Or(s.Mechanism, "PLAIN"), Backend: cmp.Or(s.Backend, "file"), AuthzID: s.AuthzID,
			Groups: s.Groups, Attributes: s.Attributes}
	}
	for _, u := range s.Unknown {
		forget(t, u)
	}
	return t
}

// forget takes back what is supposed about a fact that the front end could not know.
func forget(t *engine.Transaction, fact string) {
	switch fact {
	case "client":
		t.Client = engine.Client{}
	case "client.ip":
		t.Client.IP = netip.Addr{}
	case "client.ehlo":
		t.Client.EHLO = ""
	case "tls":
		t.TLS = nil
	case "tls.cipher":
		if t.TLS != nil {
			t.TLS.Cipher = ""
		}
	case "auth":
		t.Auth = nil
	case "auth.mechanism":
		if t.Auth != nil {
			t.Auth.Mechanism = ""
		}
	case "auth.backend":
		if t.Auth != nil {
			t.Auth.Backend = ""
		}
	case "server.listener":
		t.Server.Listener = ""
	}
}

// Author is the first author that the message names, for an envelope sender that nobody gave.
func Author(msg []byte) (string, error) {
	end, complete := message.HeaderEnd(msg)
	if !complete {
		end = len(msg)
	}
	h, err := message.ParseHeader(msg[:end], message.Limits{})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if from := message.ReadFacts(h).From; len(from) > 0 {
		return from[0].Address(), nil
	}
	return "", errors.New("the message has no author to take it from")
}
