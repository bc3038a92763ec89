package engine

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/internal/message"
)

// Memo keeps what the engine has made of a transaction's facts for the next question about it: the values of the login, the
// sender, the recipients and the list of what is unknown. Without it the recipients of a message are made again for each RCPT
// that follows. Each is used again only where it is made of the same facts, so that there is nothing to invalidate. The zero
// value is ready. It belongs to one transaction, and to one goroutine at a time.
type Memo struct {
	b       builder // whose blocks hold nothing but what is kept
	auth    keptAuth
	from    keptSender
	to      []keptRecipient
	unknown keptList
}

// kept is a value and what its strings weigh; term is nil where there is none.
type kept struct {
	term   *ast.Term
	octets int
}

type keptAuth struct {
	kept
	of       Auth
	failures int
}

type keptSender struct {
	kept
	of     message.Path
	params message.Params
}

type keptRecipient struct {
	kept
	of message.Mailbox
}

type keptList struct {
	kept
	of []string
}

// again counts a kept value in and gives it.
func (b *builder) again(v *kept) *ast.Term {
	b.octets += v.octets
	return v.term
}

// keep makes a value to be kept.
func (b *builder) keep(make func(*builder) *ast.Term) (*ast.Term, kept) {
	own := &b.memo.b
	own.k, own.block, own.octets = b.k, 32, 0
	v := kept{term: make(own), octets: own.octets}
	return b.again(&v), v
}

// keptAuth is auth, out of the memo where that has it. Attributes and certificates are not compared: logins with them are
// made anew.
func (b *builder) keptAuth(a *Auth) *ast.Term {
	if b.memo == nil || len(a.Attributes) > 0 || a.Certificate != nil {
		return b.auth(a)
	}
	failures := -1
	if a.RecentFailures != nil {
		failures = *a.RecentFailures
	}
	m := &b.memo.auth
	if m.term != nil && m.of.Login == a.Login && m.of.Mechanism == a.Mechanism && m.of.Backend == a.Backend &&
		m.of.AuthzID == a.AuthzID && slices.Equal(m.of.Groups, a.Groups) && m.failures == failures {
		return b.again(&m.kept)
	}
	term, v := b.keep(func(own *builder) *ast.Term { return own.auth(a) })
	*m = keptAuth{v, Auth{Login: a.Login, Mechanism: a.Mechanism, Backend: a.Backend, AuthzID: a.AuthzID, Groups: slices.Clone(a.Groups)}, failures}
	return term
}

// keptSender is sender, out of the memo where that has it.
func (b *builder) keptSender(e *Envelope) *ast.Term {
	if b.memo == nil {
		return b.sender(e)
	}
	m := &b.memo.from
	if m.term != nil && m.of == e.From && maps.Equal(m.params, e.FromParams) {
		return b.again(&m.kept)
	}
	term, v := b.keep(func(own *builder) *ast.Term { return own.sender(e) })
	*m = keptSender{v, e.From, maps.Clone(e.FromParams)}
	return term
}

// keptRecipient is recipient number i, out of the memo where that has it. One with parameters is made anew.
func (b *builder) keptRecipient(i int, r *Recipient) *ast.Term {
	if b.memo == nil || len(r.Params) > 0 {
		return b.recipient(r)
	}
	if missing := i + 1 - len(b.memo.to); missing > 0 {
		b.memo.to = append(b.memo.to, make([]keptRecipient, missing)...)
	}
	m := &b.memo.to[i]
	if m.term != nil && m.of == r.Mailbox {
		return b.again(&m.kept)
	}
	term, v := b.keep(func(own *builder) *ast.Term { return own.recipient(r) })
	*m = keptRecipient{v, r.Mailbox}
	return term
}

// keptUnknown is the list of unknown facts, out of the memo where that has it.
func (b *builder) keptUnknown(list []string) *ast.Term {
	if b.memo == nil {
		return b.strs(list)
	}
	m := &b.memo.unknown
	if m.term != nil && slices.Equal(m.of, list) {
		return b.again(&m.kept)
	}
	term, v := b.keep(func(own *builder) *ast.Term { return own.strs(list) })
	*m = keptList{v, slices.Clone(list)}
	return term
}
