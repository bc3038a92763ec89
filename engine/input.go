package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// maxBody limits input.message.body.text, in bytes.
const maxBody = 1 << 20

// Groups of parts: those for which the address fields are parsed, those that need a header, those of one object.
const (
	partsParsed = contract.PartMessageFrom | contract.PartMessageSender | contract.PartMessageReplyTo | contract.PartMessageTo |
		contract.PartMessageCc | contract.PartMessageBcc | contract.PartMessageResent | contract.PartMessageUnqualified | contract.PartMessageAmbiguous |
		contract.PartMessageCanonical | contract.PartMessageUnreadable | contract.PartMessageResentBlocks
	partsHeader   = partsParsed | contract.PartMessageHeaders | contract.PartMessageHeader | contract.PartMessageUnusable | contract.PartMessageTrace
	partsEnvelope = contract.PartEnvelopeFrom | contract.PartEnvelopeTo | contract.PartEnvelopeRecipientCount
	partsMessage  = partsHeader | contract.PartMessageSize | contract.PartMessageMboxLine | contract.PartMessageGenerated | contract.PartMessageBody
)

// builder makes the input of one decision directly as OPA values. It allocates terms in blocks, because there are hundreds of them.
type builder struct {
	k      *keys
	terms  []ast.Term
	octets int       // length of all strings
	fields *fieldSet // of message.header; nil: all
	block  int       // number of terms in a block; 0: 128
}

// pair is an entry of an object.
type pair = [2]*ast.Term

// term wraps a value.
func (b *builder) term(v ast.Value) *ast.Term {
	if len(b.terms) == cap(b.terms) {
		b.terms = make([]ast.Term, 0, cmp.Or(b.block, 128))
	}
	b.terms = append(b.terms, ast.Term{Value: v})
	return &b.terms[len(b.terms)-1]
}

// str makes a string. Bytes that are not UTF-8 become U+FFFD, so that the log and a replay have the same string as the policy.
func (b *builder) str(s string) *ast.Term {
	if s == "" {
		return b.k.empty
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	b.octets += len(s)
	return b.term(ast.String(s))
}

// num makes an integer.
func (b *builder) num(n int64) *ast.Term { return b.term(ast.Number(strconv.FormatInt(n, 10))) }

// bool makes a boolean.
func (b *builder) bool(v bool) *ast.Term {
	if v {
		return b.k.yes
	}
	return b.k.no
}

// strs makes a list of strings.
func (b *builder) strs(list []string) *ast.Term {
	if len(list) == 0 {
		return b.k.list
	}
	out := make([]*ast.Term, len(list))
	for i, s := range list {
		out[i] = b.str(s)
	}
	return b.term(ast.NewArray(out...))
}

// lists makes an object of lists of strings.
func (b *builder) lists(m map[string][]string) *ast.Term {
	if len(m) == 0 {
		return b.k.object
	}
	pairs := make([]pair, 0, len(m))
	for name, values := range m {
		pairs = append(pairs, pair{b.str(name), b.strs(values)})
	}
	return b.object(pairs)
}

// known appends a string to the pairs of an object unless it is empty: a fact that is not known is absent.
func (b *builder) known(pairs []pair, key *ast.Term, s string) []pair {
	if s == "" {
		return pairs
	}
	return append(pairs, pair{key, b.str(s)})
}

// object makes an object of pairs.
func (b *builder) object(pairs []pair) *ast.Term { return b.term(ast.NewObject(pairs...)) }

// build makes the parts of the input in read, and what every input has. The error is that of reading the body.
func (b *builder) build(t *Transaction, read contract.Parts) (ast.Value, error) {
	k := b.k
	pairs := make([]pair, 0, 12)
	pairs = append(pairs, pair{k.version, k.current}, pair{k.stage, k.stages[t.Stage]}, pair{k.id, b.str(t.ID)},
		pair{k.now, b.num(t.Now.UnixNano())}, pair{k.unknown, b.strs(t.Unknown)})
	if read&contract.PartServer != 0 {
		pairs = append(pairs, pair{k.server, b.server(&t.Server)})
	}
	if read&contract.PartClient != 0 {
		pairs = append(pairs, pair{k.client, b.client(&t.Client)})
	}
	if read&contract.PartTLS != 0 && t.TLS != nil {
		pairs = append(pairs, pair{k.tls, b.tls(t.TLS)})
	}
	if read&contract.PartAuth != 0 && t.Auth != nil {
		pairs = append(pairs, pair{k.auth, b.auth(t.Auth)})
	}
	if read&partsEnvelope != 0 && t.Envelope != nil {
		pairs = append(pairs, pair{k.envelope, b.envelope(t.Envelope, read)})
	}
	if read&contract.PartRecipient != 0 && t.Recipient != nil {
		pairs = append(pairs, pair{k.recipient, b.recipient(t.Recipient)})
	}
	if read&partsMessage != 0 && t.Message != nil && t.Stage == StageMessage {
		m, err := b.message(t, read)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{k.message, m})
	}
	return ast.NewObject(pairs...), nil
}

func (b *builder) envelope(e *Envelope, read contract.Parts) *ast.Term {
	pairs := make([]pair, 0, 3)
	if read&contract.PartEnvelopeFrom != 0 {
		pairs = append(pairs, pair{b.k.from, b.sender(e)})
	}
	if read&contract.PartEnvelopeTo != 0 {
		to := make([]*ast.Term, len(e.To))
		for i := range e.To {
			to[i] = b.recipient(&e.To[i])
		}
		pairs = append(pairs, pair{b.k.to, b.term(ast.NewArray(to...))})
	}
	if read&contract.PartEnvelopeRecipientCount != 0 {
		pairs = append(pairs, pair{b.k.recipientCount, b.num(int64(len(e.To)))})
	}
	return b.object(pairs)
}

func (b *builder) sender(e *Envelope) *ast.Term {
	from := append(make([]pair, 0, 7), pair{b.k.null, b.bool(e.From.Null)})
	return b.object(b.path(from, &e.From, e.FromParams))
}

func (b *builder) recipient(r *Recipient) *ast.Term {
	return b.object(b.path(make([]pair, 0, 6), &r.Path, r.Params))
}

// path appends the facts of an envelope address.
func (b *builder) path(pairs []pair, path *message.Path, p message.Params) []pair {
	params := b.k.object
	if len(p) > 0 {
		list := make([]pair, 0, len(p))
		for name, value := range p {
			list = append(list, pair{b.str(name), b.str(value)})
		}
		params = b.object(list)
	}
	return append(b.known(b.address(pairs, &path.Mailbox), b.k.unreadable, path.Unreadable), pair{b.k.parameters, params})
}

// address appends the facts of any address. Those of the null sender are all empty.
func (b *builder) address(pairs []pair, m *message.Mailbox) []pair {
	if m.Local == "" && m.Domain == "" {
		e := b.k.empty
		return append(pairs, pair{b.k.address, e}, pair{b.k.key, e}, pair{b.k.local, e}, pair{b.k.domain, e})
	}
	address, key := m.Address(), m.Key()
	a := b.str(address)
	same := a
	if key != address {
		same = b.str(key)
	}
	pairs = append(pairs, pair{b.k.address, a}, pair{b.k.key, same}, pair{b.k.local, b.str(m.Local)},
		pair{b.k.domain, b.str(m.Domain)})
	if u := m.DomainUnicode(); u != "" {
		pairs = append(pairs, pair{b.k.domainUnicode, b.str(u)})
	}
	return pairs
}

func (b *builder) message(t *Transaction, read contract.Parts) (*ast.Term, error) {
	k, m := b.k, t.Message
	pairs := make([]pair, 0, 14)
	if read&contract.PartMessageSize != 0 && m.Size >= 0 {
		pairs = append(pairs, pair{k.size, b.num(m.Size)})
	}
	pairs = b.header(pairs, m.Header, read)
	if m.Header != nil && read&contract.PartMessageUnusable != 0 {
		pairs = append(pairs, pair{k.unusable, b.strs(message.ReadUnusable(m.Header))})
	}
	if m.Header != nil && read&contract.PartMessageTrace != 0 {
		pairs = b.trace(pairs, message.ReadTrace(m.Header, t.Server.Hostname))
	}
	if read&contract.PartMessageMboxLine != 0 {
		pairs = b.known(pairs, k.mboxLine, m.MboxLine)
	}
	if read&contract.PartMessageGenerated != 0 {
		pairs = append(pairs, pair{k.generated, b.generated(&m.Generated)})
	}
	if read&contract.PartMessageBody != 0 && m.Body != nil {
		text, err := m.Body(maxBody + 1)
		if err != nil {
			return nil, fmt.Errorf("read the body for policy: %w", err)
		}
		long := len(text) > maxBody
		if long {
			text = text[:maxBody]
		}
		pairs = append(pairs, pair{k.body, b.object([]pair{{k.text, b.str(string(text))}, {k.truncated, b.bool(long)}})})
	}
	return b.object(pairs), nil
}

// trace appends message.trace, unless there are no such fields.
func (b *builder) trace(pairs []pair, t message.Trace) []pair {
	if t.Received == 0 && len(t.ResultsHere) == 0 {
		return pairs
	}
	here := make([]*ast.Term, len(t.ResultsHere))
	for i, n := range t.ResultsHere {
		here[i] = b.num(int64(n))
	}
	return append(pairs, pair{b.k.trace, b.object([]pair{{b.k.received, b.num(int64(t.Received))}, {b.k.receivedHere, b.num(int64(t.ReceivedHere))},
		{b.k.resultsHere, b.term(ast.NewArray(here...))}})})
}

// header appends the facts of the fields and of the addresses in them.
func (b *builder) header(pairs []pair, h *message.Header, read contract.Parts) []pair {
	if read&partsHeader == 0 || h == nil {
		return pairs
	}
	switch {
	case read&contract.PartMessageHeaders != 0 || read&contract.PartMessageHeader != 0 && b.fields == nil:
		pairs = b.all(pairs, h, read)
	case read&contract.PartMessageHeader != 0:
		pairs = append(pairs, pair{b.k.header, b.some(h)})
	}
	if read&partsParsed == 0 {
		return pairs
	}
	f := message.ReadFacts(h)
	for _, field := range [...]struct {
		part contract.Parts
		key  *ast.Term
		list []message.Mailbox
	}{
		{contract.PartMessageFrom, b.k.from, f.From}, {contract.PartMessageSender, b.k.sender, f.Sender}, {contract.PartMessageReplyTo, b.k.replyTo, f.ReplyTo},
		{contract.PartMessageTo, b.k.to, f.To}, {contract.PartMessageCc, b.k.cc, f.Cc}, {contract.PartMessageBcc, b.k.bcc, f.Bcc},
		{contract.PartMessageResent, b.k.resent, f.Resent},
	} {
		if read&field.part != 0 {
			pairs = append(pairs, pair{field.key, b.mailboxes(field.list)})
		}
	}
	if read&contract.PartMessageResentBlocks != 0 {
		list := make([]*ast.Term, len(f.ResentBlocks))
		for i, block := range f.ResentBlocks {
			fields := append(make([]pair, 0, 4), pair{b.k.from, b.mailboxes(block.From)}, pair{b.k.sender, b.mailboxes(block.Sender)}, pair{b.k.to, b.mailboxes(block.To)})
			list[i] = b.object(b.known(fields, b.k.date, block.Date))
		}
		pairs = append(pairs, pair{b.k.resentBlocks, b.array(list)})
	}
	if read&contract.PartMessageUnqualified != 0 {
		list := make([]*ast.Term, len(f.Unqualified))
		for i, u := range f.Unqualified {
			list[i] = b.object([]pair{{b.k.name, b.str(u.Name)}, {b.k.index, b.num(int64(u.Index))}, {b.k.pieces, b.strs(u.Pieces)}})
		}
		pairs = append(pairs, pair{b.k.unqualified, b.array(list)})
	}
	if read&contract.PartMessageUnreadable != 0 {
		list := make([]*ast.Term, len(f.Unreadable))
		for i, u := range f.Unreadable {
			list[i] = b.object([]pair{{b.k.name, b.str(u.Name)}, {b.k.index, b.num(int64(u.Index))}, {b.k.nobody, b.bool(u.Nobody)}, {b.k.text, b.str(u.Text)}})
		}
		pairs = append(pairs, pair{b.k.unreadable, b.array(list)})
	}
	if read&contract.PartMessageAmbiguous != 0 {
		list := make([]*ast.Term, len(f.Ambiguous))
		for i, a := range f.Ambiguous {
			fields := append(make([]pair, 0, 5), pair{b.k.kind, b.str(a.Kind)}, pair{b.k.field, b.str(a.Field)}, pair{b.k.text, b.str(a.Text)}, pair{b.k.mended, b.bool(a.Mended)})
			if a.Address != "" {
				fields = append(fields, pair{b.k.address, b.str(a.Address)})
			}
			list[i] = b.object(fields)
		}
		pairs = append(pairs, pair{b.k.ambiguous, b.array(list)})
	}
	if read&contract.PartMessageCanonical != 0 {
		list := make([]*ast.Term, len(f.Canonical))
		for i, c := range f.Canonical {
			list[i] = b.object([]pair{{b.k.name, b.str(c.Name)}, {b.k.index, b.num(int64(c.Index))}, {b.k.pieces, b.strs(c.Pieces)}})
		}
		pairs = append(pairs, pair{b.k.canonical, b.array(list)})
	}
	return pairs
}

// all appends message.headers and message.header with all fields. The two share their strings.
func (b *builder) all(pairs []pair, h *message.Header, read contract.Parts) []pair {
	n := h.Len()
	terms := make([]struct{ key, value *ast.Term }, n)
	names := make([]string, n)
	ordered := make([]*ast.Term, 0, n)
	for i := range n {
		f := h.Field(i)
		names[i] = f.Key()
		terms[i].key, terms[i].value = b.str(names[i]), b.str(f.Value())
		if read&contract.PartMessageHeaders != 0 {
			ordered = append(ordered, b.object([]pair{{b.k.name, b.str(f.Name())}, {b.k.key, terms[i].key}, {b.k.value, terms[i].value}}))
		}
	}
	if read&contract.PartMessageHeaders != 0 {
		pairs = append(pairs, pair{b.k.headers, b.term(ast.NewArray(ordered...))})
	}
	if read&contract.PartMessageHeader == 0 {
		return pairs
	}
	byKey := make([]int, n)
	for i := range byKey {
		byKey[i] = i
	}
	slices.SortStableFunc(byKey, func(x, y int) int { return strings.Compare(names[x], names[y]) })
	header := make([]pair, 0, n)
	for i := 0; i < n; {
		first := byKey[i]
		values := make([]*ast.Term, 0, 1)
		for ; i < n && names[byKey[i]] == names[first]; i++ {
			values = append(values, terms[byKey[i]].value)
		}
		header = append(header, pair{terms[first].key, b.term(ast.NewArray(values...))})
	}
	return append(pairs, pair{b.k.header, b.object(header)})
}

// array makes a list.
func (b *builder) array(list []*ast.Term) *ast.Term {
	if len(list) == 0 {
		return b.k.list
	}
	return b.term(ast.NewArray(list...))
}

// mailboxes makes the list of an address field's mailboxes.
func (b *builder) mailboxes(list []message.Mailbox) *ast.Term {
	if len(list) == 0 {
		return b.k.list
	}
	out := make([]*ast.Term, len(list))
	for i := range list {
		pairs := append(make([]pair, 0, 5), pair{b.k.name, b.str(list[i].Name)})
		out[i] = b.object(b.address(pairs, &list[i]))
	}
	return b.term(ast.NewArray(out...))
}

// some makes message.header with the fields in b.fields only.
func (b *builder) some(h *message.Header) *ast.Term {
	found := make([][]*ast.Term, len(b.fields.keys))
	for i := range h.Len() {
		f := h.Field(i)
		if at, ok := slices.BinarySearch(b.fields.keys, f.Key()); ok {
			found[at] = append(found[at], b.str(f.Value()))
		}
	}
	header := make([]pair, 0, len(found))
	for i, values := range found {
		if values != nil {
			header = append(header, pair{b.fields.terms[i], b.term(ast.NewArray(values...))})
		}
	}
	return b.object(header)
}

// keys are the terms that all inputs of a Policy share: the names of the facts, and constants.
type keys struct {
	factKeys
	current, yes, no, empty, list, object *ast.Term
	stages                                [StageMessage + 1]*ast.Term
}

func newKeys() *keys {
	k := &keys{
		factKeys: newFactKeys(), current: ast.IntNumberTerm(contract.Version), yes: ast.BooleanTerm(true), no: ast.BooleanTerm(false),
		empty: ast.StringTerm(""), list: ast.ArrayTerm(), object: ast.ObjectTerm(),
	}
	for _, stage := range contract.Stages() {
		k.stages[stage] = ast.StringTerm(stage.String())
	}
	return k
}
