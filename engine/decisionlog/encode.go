package decisionlog

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// encoder makes lines. One goroutine uses it at a time.
type encoder struct {
	masker *masker
	labels []byte // a JSON object; nil: none
	max    int    // octets of a line

	// State of the current line.
	bounds
	dst            []byte
	at             []byte   // JSON pointer (RFC 6901) of the value under way
	erased, masked []string // pointers
	known          []known  // words that name who is connected, and what stands for them
	told           []known  // what else was masked or left out, and must not come back in a note or reply
	body           string   // likewise
	input          []byte   // kept for its room
}

// known is a word that is masked wherever it occurs.
type known struct{ word, by string }

// newEncoder makes an encoder of lines of at most limit octets; 0: DefaultLine.
func newEncoder(m Mask, labels map[string]string, limit int) (*encoder, error) {
	k, err := newMasker(m)
	if err != nil {
		return nil, err
	}
	enc := &encoder{masker: k, max: cmp.Or(max(limit, 0), DefaultLine)}
	if len(labels) > 0 {
		enc.labels = append(enc.labels, '{')
		for i, name := range slices.Sorted(maps.Keys(labels)) {
			if i > 0 {
				enc.labels = append(enc.labels, ',')
			}
			enc.labels = append(engine.AppendString(enc.labels, name), ':')
			enc.labels = engine.AppendString(enc.labels, labels[name])
		}
		enc.labels = append(enc.labels, '}')
	}
	if enc.max < MinLine {
		return nil, fmt.Errorf("decision log: a line of %d octets is too short; the least is %d", enc.max, MinLine)
	}
	if len(enc.labels) > enc.max/labelShare {
		return nil, fmt.Errorf("decision log: the labels take %d octets of each line; at most %d fit into a line of %d", len(enc.labels), enc.max/labelShare, enc.max)
	}
	return enc, nil
}

// line appends the line of e without a line end. A line that would be longer than c.max is made again, as a shortened one.
func (c *encoder) line(dst []byte, e *Entry) []byte {
	defer func() { c.dst, c.body = nil, "" }()
	out := c.attempt(dst, e, false)
	if c.over || len(out)-len(dst) > c.max {
		out = c.attempt(out[:len(dst)], e, true)
	}
	return out
}

// attempt appends the line of e. Without short, it gives up with c.over once the line is longer than c.max.
func (c *encoder) attempt(dst []byte, e *Entry, short bool) []byte {
	c.dst, c.at, c.body = dst, c.at[:0], ""
	c.erased, c.masked, c.known, c.told = c.erased[:0], c.masked[:0], c.known[:0], c.told[:0]
	c.begin(short, len(dst)+c.max)

	c.event(e)
	c.summary(e)
	head, parts := c.dst, c.parts(e)
	c.dst, c.end = c.input[:0], c.max
	if short {
		c.end = c.max - (len(head) - len(dst)) - len(parts) - c.max/reservedShare - reservedOctets
	}
	c.inputOf(e)
	c.input, c.dst = c.dst, head
	if c.over {
		return c.dst
	}

	c.told = slices.Insert(c.told, 0, c.known...)
	slices.SortStableFunc(c.told, func(a, b known) int { return len(b.word) - len(a.word) }) // a name before the word it begins with
	d := &e.decision
	c.end = len(dst) + c.max
	c.fail(d.Err)
	if short {
		c.end = len(c.dst) + c.max/resultShare
	}
	c.raw(`,"result":`)
	c.in("result", func() { c.result(d) })
	c.dst = append(e.appendReplay(c.dst), parts...)
	if len(c.input) > 0 {
		c.raw(`,"input":`)
		c.dst = append(c.dst, c.input...)
	}
	if cap(c.input) > 4*batch {
		c.input = nil // the memory of one huge line must not stay for ever
	}
	c.pointers("erased", c.erased)
	c.pointers("masked", c.masked)
	c.shortened()
	return append(c.dst, '}')
}

// event appends the fields of OPA's events that identify the decision.
func (c *encoder) event(e *Entry) {
	c.raw(`{"decision_id":"`)
	c.dst = appendUUID(c.dst)
	c.raw(`"`)
	if c.labels != nil {
		c.raw(`,"labels":`)
		c.dst = append(c.dst, c.labels...)
	}
	c.raw(`,"timestamp":"`)
	c.dst = e.time.UTC().AppendFormat(c.dst, time.RFC3339Nano)
	c.raw(`","path":"postern/`)
	c.raw(e.decision.Stage.String())
	c.raw(`","bundles":{"postern":{"revision":`)
	c.in("revision", func() { c.str(e.decision.Revision) })
	c.raw(`}}`)
	if e.client.IsValid() {
		c.raw(`,"requested_by":"`)
		c.dst = c.masker.ip(e.client).AppendTo(c.dst)
		c.raw(`"`)
	}
	if e.number != 0 {
		c.raw(`,"req_id":`)
		c.dst = strconv.AppendUint(c.dst, e.number, 10)
	}
	c.raw(`,"metrics":{"timer_rego_query_eval_ns":`)
	c.dst = strconv.AppendInt(c.dst, e.decision.Latency.Nanoseconds(), 10)
	c.raw(`}`)
}

// summary appends the fields that a postmaster searches for, and remembers the persons in the line.
func (c *encoder) summary(e *Entry) {
	c.raw(`,"id":`)
	c.in("id", func() { c.str(e.id) })
	c.raw(`,"stage":"`)
	c.raw(e.decision.Stage.String())
	c.raw(`"`)
	c.optional("door", e.server.Door)
	c.optional("listener", e.server.Listener)
	if e.client.IsValid() {
		c.client(e.client)
	}
	if e.login != "" {
		c.person(e.login)
		c.raw(`,"login":`)
		c.in("login", func() { c.replace(e.login, c.masker.address(e.login)) })
	}
	if e.envelope {
		from := e.from.Address()
		c.raw(`,"from":`)
		c.in("from", func() { c.replace(from, c.masker.address(from)) })
		c.raw(`,"recipients":`)
		c.dst = strconv.AppendInt(c.dst, int64(e.recipients), 10)
	}
	c.raw(`,"revision":`)
	c.in("revision", func() { c.str(e.decision.Revision) })
	c.raw(`,"latency_us":`)
	c.dst = strconv.AppendInt(c.dst, e.decision.Latency.Microseconds(), 10)
	if e.decision.Wait > 0 {
		c.raw(`,"wait_us":`)
		c.dst = strconv.AppendInt(c.dst, e.decision.Wait.Microseconds(), 10)
	}
}

func (c *encoder) client(a netip.Addr) {
	ip, masked := a.String(), c.masker.ip(a).String()
	if c.masker.ClientIP == PlainClientIP {
		masked = ip
	} else {
		c.known = append(c.known, known{a.Unmap().WithZone("").String(), masked})
		c.masked = append(c.masked, "/requested_by")
	}
	c.raw(`,"client":`)
	c.in("client", func() { c.replace(ip, masked) })
}

// fail appends the reason of the failure verdict in the form of OPA's events.
func (c *encoder) fail(err error) {
	if err == nil {
		return
	}
	kind := "error"
	var e *engine.EvalError
	if errors.As(err, &e) {
		kind = e.Kind
	}
	c.raw(`,"error":{"code":`)
	c.str(kind)
	c.raw(`,"message":`)
	c.in("error/message", func() { c.outcome(err.Error()) })
	c.raw(`}`)
}

// result appends verdict, reply, rules, edits and notes.
func (c *encoder) result(d *engine.Decision) {
	c.raw(`{"verdict":"`)
	c.raw(d.Verdict.String())
	c.raw(`"`)
	if !d.Reply.IsZero() {
		c.raw(`,"reply":{"code":`)
		c.raw(strconv.Itoa(d.Reply.Code()))
		c.optional("status", d.Reply.Status())
		lines := d.Reply.Lines()
		c.raw(`,"lines":`)
		c.in("reply/lines", func() { c.share(true, func() { c.list(len(lines), func(i int) { c.outcome(lines[i]) }) }) })
		c.raw(`}`)
	}
	c.raw(`,"rules":`)
	c.in("rules", func() { c.share(true, func() { c.list(len(d.Reasons), func(i int) { c.reason(&d.Reasons[i]) }) }) })
	if n := d.Edits.Len(); n > 0 {
		c.raw(`,"edits":`)
		c.in("edits", func() { c.share(true, func() { c.list(n, func(i int) { c.edit(d.Edits.At(i)) }) }) })
	}
	if len(d.Notes) > 0 {
		c.raw(`,"notes":`)
		c.in("notes", func() { c.list(len(d.Notes), func(i int) { c.note(d.Notes[i]) }) })
	}
	c.raw(`}`)
}

func (c *encoder) reason(r *engine.Reason) {
	c.raw(`{"set":`)
	c.str(r.Set)
	c.raw(`,"rule":`)
	c.in("rule", func() { c.text(r.Rule) })
	if r.Code != 0 {
		c.raw(`,"code":`)
		c.raw(strconv.Itoa(r.Code))
	}
	c.optional("status", r.Status)
	if r.Text != r.Rule && r.Text != "" {
		c.raw(`,"message":`)
		c.in("message", func() { c.outcome(r.Text) })
	}
	c.raw(`}`)
}

// edit appends an edit in the form in which a policy writes it.
func (c *encoder) edit(e message.Edit) {
	c.raw(`{"op":`)
	c.str(contract.EditName(e.Op()))
	if e.Op() >= message.OpChangeSender {
		c.raw(`,"address":`)
		address := e.Path().Address()
		c.in("address", func() { c.replace(address, c.masker.address(address)) })
		c.raw(`}`)
		return
	}
	c.raw(`,"name":`)
	c.in("name", func() { c.str(e.Name()) })
	if e.Op() != message.OpAddHeader {
		c.raw(`,"index":`)
		c.raw(strconv.Itoa(e.Index()))
	}
	if e.Op() != message.OpRemoveHeader {
		c.in("value", func() {
			if c.masker.erased(e.Name()) {
				c.erase()
				return
			}
			c.raw(`,"value":`)
			c.field(e.Name(), e.Value(), c.outcome)
		})
	}
	c.raw(`}`)
}

// note appends an element of the set note, which may be any JSON.
func (c *encoder) note(v any) {
	if c.short && bytes.Count(c.at, []byte{'/'}) > maxDepth {
		c.raw(`null`)
		c.omit(1, 0)
		return
	}
	switch v := v.(type) {
	case string:
		c.outcome(v)
	case []any:
		c.list(len(v), func(i int) { c.note(v[i]) })
	case map[string]any:
		c.raw(`{`)
		names := slices.Sorted(maps.Keys(v))
		first := true
		for i, name := range names {
			shown := c.clean(name, c.told)
			if !c.room(min(len(shown), maxName)) {
				c.omit(len(names)-i, 0)
				break
			}
			if c.short && len(shown) > maxName {
				c.omit(1, 0)
				continue
			}
			if !first {
				c.raw(`,`)
			}
			first = false
			c.key(shown, func() { c.replace(name, shown); c.raw(`:`); c.share(true, func() { c.note(v[name]) }) })
		}
		c.raw(`}`)
	default:
		text, err := json.Marshal(v)
		if err != nil || len(text) > maxNumber {
			text = []byte("null")
			c.omit(1, 0)
		}
		c.raw(string(text))
	}
}

// list appends a JSON array. A shortened one ends before the first element that does not fit whole, except for strings that are cut.
func (c *encoder) list(n int, item func(int)) {
	c.raw(`[`)
	muted := false
	for i := range n {
		if !muted && !c.room(0) {
			muted = c.leaveOut(n - i)
			if !muted {
				break
			}
		}
		before := c.state(i > 0 && !muted)
		if i > 0 {
			c.raw(`,`)
		}
		c.in(strconv.Itoa(i), func() { item(i) })
		if c.back(before) {
			muted = c.leaveOut(n - i)
			if !muted {
				break
			}
		}
	}
	if muted {
		c.mute--
	}
	c.raw(`]`)
}

func (c *encoder) raw(s string) {
	if c.mute == 0 {
		c.dst = append(c.dst, s...)
	}
}

// optional appends a string field that is left out when it is empty. name needs no escaping.
func (c *encoder) optional(name, value string) {
	if value != "" {
		c.raw(`,"` + name + `":`)
		c.in(name, func() { c.str(value) })
	}
}

// pointers appends a list of JSON pointers unless it is empty.
func (c *encoder) pointers(name string, list []string) {
	if len(list) == 0 {
		return
	}
	c.raw(`,"` + name + `":[`)
	for i, p := range list {
		if i > 0 {
			c.raw(`,`)
		}
		c.dst = engine.AppendString(c.dst, p)
	}
	c.raw(`]`)
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

// newUUID returns a random UUID (RFC 9562 §5.4).
func newUUID() string { return string(appendUUID(nil)) }

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
