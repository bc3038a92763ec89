package decisionlog

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// Entry is one line before it is encoded. It shares nothing that anybody writes to.
type Entry struct {
	id         string
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

// NewEntry takes from a record what the line will say. It allocates once and encodes nothing.
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

// AppendJSON appends the line without its line end. Every call makes a new decision_id.
func (e *Entry) AppendJSON(dst []byte) []byte {
	d := &e.decision
	stage := d.Stage.String()
	dst = append(dst, `{"decision_id":"`...)
	dst = appendUUID(dst)
	dst = append(dst, `","timestamp":"`...)
	dst = e.time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","path":"postern/`...)
	dst = append(dst, stage...)
	dst = append(dst, `","bundles":{"postern":{"revision":`...)
	dst = engine.AppendString(dst, d.Revision)
	dst = append(dst, `}},"id":`...)
	dst = engine.AppendString(dst, e.id)
	dst = append(dst, `,"stage":"`...)
	dst = append(dst, stage...)
	dst = append(dst, '"')
	dst = appendField(dst, "door", e.server.Door)
	dst = appendField(dst, "listener", e.server.Listener)
	if e.client.IsValid() {
		dst = appendField(dst, "client", e.client.String())
	}
	dst = appendField(dst, "login", e.login)
	if e.envelope {
		dst = append(dst, `,"from":`...)
		dst = engine.AppendString(dst, e.from.Address())
		dst = append(dst, `,"recipients":`...)
		dst = strconv.AppendInt(dst, int64(e.recipients), 10)
	}
	dst = append(dst, `,"revision":`...)
	dst = engine.AppendString(dst, d.Revision)
	dst = append(dst, `,"latency_us":`...)
	dst = strconv.AppendInt(dst, d.Latency.Microseconds(), 10)
	dst = appendError(dst, d.Err)
	dst = append(dst, `,"result":`...)
	dst = appendResult(dst, d)
	dst = e.appendReplay(dst)
	if e.input != nil {
		dst = append(dst, `,"input":`...)
		dst = e.input.AppendJSON(dst)
	}
	return append(dst, '}')
}

// appendField appends a string field that is left out when it is empty. name needs no escaping.
func appendField(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `":`...)
	return engine.AppendString(dst, value)
}

// appendError appends why the failure verdict was taken, as OPA's events have it.
func appendError(dst []byte, err error) []byte {
	if err == nil {
		return dst
	}
	kind := "error"
	var e *engine.EvalError
	if errors.As(err, &e) {
		kind = e.Kind
	}
	dst = append(dst, `,"error":{"code":`...)
	dst = engine.AppendString(dst, kind)
	dst = append(dst, `,"message":`...)
	dst = engine.AppendString(dst, err.Error())
	return append(dst, '}')
}

// appendResult appends verdict, reply, rules, edits and notes.
func appendResult(dst []byte, d *engine.Decision) []byte {
	dst = append(dst, `{"verdict":"`...)
	dst = append(dst, d.Verdict.String()...)
	dst = append(dst, '"')
	if !d.Reply.IsZero() {
		dst = append(dst, `,"reply":{"code":`...)
		dst = strconv.AppendInt(dst, int64(d.Reply.Code()), 10)
		dst = appendField(dst, "status", d.Reply.Status())
		dst = append(dst, `,"lines":`...)
		dst = appendList(dst, d.Reply.Lines(), engine.AppendString)
		dst = append(dst, '}')
	}
	dst = append(dst, `,"rules":`...)
	dst = appendList(dst, d.Reasons, appendReason)
	if n := d.Edits.Len(); n > 0 {
		list := make([]message.Edit, n)
		for i := range n {
			list[i] = d.Edits.At(i)
		}
		dst = append(dst, `,"edits":`...)
		dst = appendList(dst, list, appendEdit)
	}
	if len(d.Notes) > 0 {
		dst = append(dst, `,"notes":`...)
		if notes, err := json.Marshal(d.Notes); err == nil {
			dst = append(dst, notes...)
		} else {
			dst = append(dst, "null"...)
		}
	}
	return append(dst, '}')
}

func appendReason(dst []byte, r engine.Reason) []byte {
	dst = append(dst, `{"set":`...)
	dst = engine.AppendString(dst, r.Set)
	dst = append(dst, `,"rule":`...)
	dst = engine.AppendString(dst, r.Rule)
	if r.Code != 0 {
		dst = append(dst, `,"code":`...)
		dst = strconv.AppendInt(dst, int64(r.Code), 10)
	}
	dst = appendField(dst, "status", r.Status)
	if r.Text != r.Rule {
		dst = appendField(dst, "message", r.Text)
	}
	return append(dst, '}')
}

// appendEdit appends an edit as a policy writes it.
func appendEdit(dst []byte, e message.Edit) []byte {
	op := engine.EditName(e.Op())
	dst = append(dst, `{"op":`...)
	dst = engine.AppendString(dst, op)
	if e.Op() >= message.OpChangeSender {
		dst = append(dst, `,"address":`...)
		dst = engine.AppendString(dst, e.Path().Address())
		return append(dst, '}')
	}
	dst = append(dst, `,"name":`...)
	dst = engine.AppendString(dst, e.Name())
	if e.Op() != message.OpAddHeader {
		dst = append(dst, `,"index":`...)
		dst = strconv.AppendInt(dst, int64(e.Index()), 10)
	}
	if e.Op() != message.OpRemoveHeader {
		dst = append(dst, `,"value":`...)
		dst = engine.AppendString(dst, e.Value())
	}
	return append(dst, '}')
}

// appendList appends a JSON array.
func appendList[T any](dst []byte, list []T, item func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = item(dst, v)
	}
	return append(dst, ']')
}

// appendUUID appends a random UUID (RFC 9562 §5.4).
func appendUUID(dst []byte) []byte {
	var u [16]byte
	rand.Read(u[:]) // never fails (crypto/rand)
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	for i, part := range [][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}
