// Package trial takes one whole transaction through the engine without a network, as a front end would: connect, MAIL, each RCPT and the
// message. `postern eval`, message tests and the golden transactions use it.
//
// It starts no goroutines.
package trial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// Session describes the client and its connection. The comments say what the zero value of a field means.
type Session struct {
	Login      string              // "" for a client that is not authenticated
	Mechanism  string              // "" for PLAIN if there is a Login
	Backend    string              // "" for file if there is a Login
	AuthzID    string              // "" for the same as Login
	Groups     []string            // of Login
	Attributes map[string][]string // of Login

	Client engine.Client // 127.0.0.1 if it has no IP, localhost if it has no EHLO

	TLS         string              // version such as "1.3"; "" without TLS
	Cipher      string              // "" for TLS_AES_128_GCM_SHA256
	SNI         string              // "" if the client sent none
	Certificate *engine.Certificate // of the client; nil for none
	ImplicitTLS bool                // TLS began with the connection, not with STARTTLS

	Hostname string // of the server; "" for localhost
	Listener string // "" for eval
	Door     string // "" for submission

	Unknown []string       // dotted paths of facts that the front end could not know, sorted; these facts are absent
	Failure engine.Verdict // verdict if policy cannot decide; the zero value is Defer
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
	// Last is the last stage at which policy is asked; 0 for the message.
	Last engine.Stage
}

// Step is one decision of policy.
type Step struct {
	Command  string // "MAIL FROM:<alice@example.com>"
	Decision engine.Decision
}

// Result is the result of a Transaction.
type Result struct {
	Steps []Step
	// Final is the decision that settled the transaction: the first refusal at connect or MAIL, the refusal of the last recipient if all were
	// refused, or else the decision about the message or about the stage Transaction.Last.
	Final    engine.Decision
	Envelope *engine.Envelope // as it is sent on; nil if the message stage was not reached
	Before   []byte           // header block before the edits
	After    []byte           // header block after the edits; nil unless accepted or quarantined
	Body     []byte
	// TraceID and Generated are values in the input of policy, for tests that need them.
	Generated engine.Generated
}

// ErrMessage says that the message cannot be read. A front end refuses it without asking policy.
var ErrMessage = errors.New("the message cannot be read")

// Run lets eng decide at each stage, until a decision settles the transaction.
func Run(ctx context.Context, eng *engine.Engine, tx Transaction) (*Result, error) {
	var line string
	line, tx.Message = cutMboxLine(tx.Message)
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
	r.message(ctx, eng, t, header, line, tx)
	return r, nil
}

// cutMboxLine removes a line of an mbox file at the start of a message, as the front ends and mail servers do.
func cutMboxLine(msg []byte) (line string, rest []byte) {
	n := message.MboxLine(msg)
	return strings.TrimSuffix(string(msg[:n]), "\r\n"), msg[n:]
}

// readHeader reads the header of the message and returns where it ends. A transaction that ends before the message has none.
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

// connect decides about a client of which only the address is known, and TLS that began with the connection.
func (r *Result) connect(ctx context.Context, eng *engine.Engine, t *engine.Transaction, tx Transaction) bool {
	c := *t
	c.Client.EHLO, c.Auth = "", nil
	if !tx.Session.ImplicitTLS {
		c.TLS = nil
	}
	return r.ask(ctx, eng, &c, engine.StageConnect, "connect")
}

// ask lets the engine decide and reports whether the dialogue goes on.
func (r *Result) ask(ctx context.Context, eng *engine.Engine, t *engine.Transaction, s engine.Stage, command string) bool {
	t.Stage = s
	d := eng.Decide(ctx, t)
	r.Steps = append(r.Steps, Step{Command: command, Decision: d})
	r.Final = d
	return d.Verdict != engine.Reject && d.Verdict != engine.Defer
}

func (r *Result) message(ctx context.Context, eng *engine.Engine, t *engine.Transaction, h *message.Header, mboxLine string, tx Transaction) {
	r.Generated = engine.Generated{
		Date:      message.FormatDate(tx.Now),
		MessageID: message.NewMessageID(tx.Now, tx.ID, t.Server.Hostname),
	}
	t.Message = &engine.Message{
		Header: h, Size: int64(len(tx.Message)), MboxLine: mboxLine, Generated: r.Generated,
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

// Bytes returns the message as it is sent on, or nil if it is not.
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

// forget removes the value of a fact that the front end could not know.
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

// Author returns the first author in the header of a message, to be used as envelope sender.
func Author(msg []byte) (string, error) {
	_, msg = cutMboxLine(msg)
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
