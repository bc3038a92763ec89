package decisionlog

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine"
)

// inputOf appends the masked input.
func (c *encoder) inputOf(e *Entry) {
	if e.input == nil {
		return
	}
	var v ast.Value
	if known, ok := e.input.(interface{ Value() ast.Value }); ok {
		v = known.Value()
	} else {
		var err error
		if v, err = ast.ValueFromReader(bytes.NewReader(e.input.AppendJSON(nil))); err != nil {
			c.in("input", c.erase)
			return
		}
	}
	obj, ok := v.(ast.Object)
	if !ok {
		c.raw("null")
		return
	}
	if m := obj.Get(ast.InternedTerm("message")); m != nil { // first, because the walk may not come to it
		if m, ok := m.Value.(ast.Object); ok {
			if b := m.Get(ast.InternedTerm("body")); b != nil {
				if b, ok := b.Value.(ast.Object); ok {
					c.body = textOf(b, "text")
				}
			}
		}
	}
	c.in("input", func() { c.object(obj, c.part) })
}

// part appends one part of the input.
func (c *encoder) part(name string, v ast.Value) {
	obj, isObject := v.(ast.Object)
	list, isList := v.(*ast.Array)
	switch {
	case name == "message" && isObject:
		c.object(obj, c.message)
	case !c.hides() || ours[name]:
		c.value(v)
	case name == "client" && isObject:
		c.object(obj, c.clientFact)
	case name == "auth" && isObject, name == "tls" && isObject:
		c.object(obj, c.identity)
	case name == "recipient" && isObject:
		c.mailbox(obj)
	case name == "envelope" && isObject:
		c.object(obj, func(name string, v ast.Value) {
			obj, isObject := v.(ast.Object)
			list, isList := v.(*ast.Array)
			switch {
			case isObject:
				c.mailbox(obj)
			case isList:
				c.mailboxes(list)
			default:
				c.any(v)
			}
		})
	case isList:
		c.list(list.Len(), func(i int) { c.any(list.Elem(i).Value) })
	default:
		c.any(v)
	}
}

// ours are parts of the input without personal data.
var ours = map[string]bool{"version": true, "stage": true, "id": true, "now": true, "server": true, "unknown": true}

// any appends a value that needs no special treatment.
func (c *encoder) any(v ast.Value) {
	switch v := v.(type) {
	case ast.String:
		c.text(string(v))
	case *ast.Array:
		c.list(v.Len(), func(i int) { c.any(v.Elem(i).Value) })
	case ast.Object:
		c.object(v, func(_ string, v ast.Value) { c.any(v) })
	default:
		c.value(v)
	}
}

// object appends an object. each appends a value; a value for which it appends nothing is left out.
func (c *encoder) object(obj ast.Object, each func(name string, v ast.Value)) {
	c.raw(`{`)
	first, muted, seen := true, false, 0
	it := obj.KeysIterator()
	for k, more := it.Next(); more; k, more = it.Next() {
		seen++
		name, ok := k.Value.(ast.String)
		if !ok {
			continue // facts have no other keys
		}
		if !muted && !c.room(len(name)) {
			if muted = c.leaveOut(obj.Len() - seen + 1); !muted {
				break
			}
		}
		before := len(c.dst)
		if !first {
			c.raw(`,`)
		}
		c.name(string(name))
		start := len(c.dst)
		c.key(string(name), func() { c.share(seen < obj.Len(), func() { each(string(name), obj.Get(k).Value) }) })
		if len(c.dst) == start {
			c.dst = c.dst[:before]
			continue
		}
		first = false
	}
	if muted {
		c.mute--
	}
	c.raw(`}`)
}

// value appends a value as it is.
func (c *encoder) value(v ast.Value) {
	if !c.short {
		if c.dst = engine.AppendValueWithin(c.dst, v, c.end); len(c.dst) > c.end {
			c.over = true
		}
		return
	}
	switch v := v.(type) {
	case ast.String:
		c.str(string(v))
	case *ast.Array:
		c.list(v.Len(), func(i int) { c.value(v.Elem(i).Value) })
	case ast.Object:
		c.object(v, func(_ string, v ast.Value) { c.value(v) })
	default:
		if text := engine.AppendValueWithin(nil, v, maxNumber); len(text) <= maxNumber {
			c.raw(string(text))
			return
		}
		c.raw(`null`)
		c.omit(1, 0)
	}
}

// clientFact appends a fact of input.client. Host names are masked like the address.
func (c *encoder) clientFact(name string, v ast.Value) {
	if c.masker.ClientIP == PlainClientIP {
		c.any(v)
		return
	}
	s, _ := v.(ast.String)
	switch name {
	case "ip":
		if a, err := netip.ParseAddr(string(s)); err == nil {
			c.replace(string(s), c.masker.ip(a).String())
			return
		}
		fallthrough
	default:
		c.learn(string(s), erasedText, minGone)
		c.erase()
	}
}

// identity appends a fact of input.auth or input.tls.
func (c *encoder) identity(name string, v ast.Value) {
	s, isText := v.(ast.String)
	obj, isObject := v.(ast.Object)
	switch {
	case isText && (name == "login" || name == "authzid" || name == "subject"):
		c.replace(string(s), c.masker.address(string(s)))
	case isObject && name == "certificate":
		c.object(obj, c.identity)
	default:
		c.any(v)
	}
}

// mailbox appends the facts of an address. All forms of one address get the same token; the pointer names the whole mailbox.
func (c *encoder) mailbox(obj ast.Object) {
	if c.masker.Addresses == PlainAddresses {
		c.any(obj)
		return
	}
	address := textOf(obj, "address")
	masked := c.masker.address(address)
	local, domain := masked, ""
	if at := strings.LastIndexByte(masked, '@'); at >= 0 {
		local, domain = masked[:at], masked[at+1:]
	}
	if address != "" {
		c.mark()
		c.learn(textOf(obj, "local"), local, minPerson)
		if c.masker.Addresses == HashedAddresses {
			c.learn(textOf(obj, "domain"), domain, minName)
		}
	}
	c.object(obj, func(name string, v ast.Value) {
		switch name {
		case "address", "key":
			c.str(masked)
		case "local":
			c.str(local)
		case "domain", "domain_unicode":
			c.str(domain)
		case "name", "unreadable":
			c.learn(textOf(obj, name), erasedText, minName)
			c.raw(`""`)
		case "parameters":
			c.parameters(v)
		default:
			c.any(v)
		}
	})
}

// mailboxes appends a list of addresses.
func (c *encoder) mailboxes(list *ast.Array) {
	c.list(list.Len(), func(i int) {
		if obj, ok := list.Elem(i).Value.(ast.Object); ok {
			c.mailbox(obj)
			return
		}
		c.any(list.Elem(i).Value)
	})
}

// parameters appends the parameters of MAIL or RCPT. Some are addresses in xtext (RFC 4954 §5, RFC 3461 §4.2), where "@" may be
// written "+40".
func (c *encoder) parameters(v ast.Value) {
	obj, ok := v.(ast.Object)
	if !ok {
		c.any(v)
		return
	}
	c.object(obj, func(name string, v ast.Value) {
		if s, ok := v.(ast.String); ok && (name == "AUTH" || name == "ORCPT" || name == "ENVID") && s != "" && s != "<>" {
			masked := c.clean(string(s), c.known)
			if masked == string(s) {
				masked = c.masker.address(masked)
			}
			c.replace(string(s), masked)
			return
		}
		c.any(v)
	})
}

// message appends a fact of input.message.
func (c *encoder) message(name string, v ast.Value) {
	obj, isObject := v.(ast.Object)
	list, isList := v.(*ast.Array)
	switch {
	case name == "body" && isObject:
		c.object(obj, func(name string, v ast.Value) {
			if name == "truncated" {
				c.any(v)
				return
			}
			c.erase()
		})
	case name == "headers" && isList:
		c.list(list.Len(), func(i int) { c.headerField(list.Elem(i).Value) })
	case name == "header" && isObject:
		c.object(obj, c.headerValues)
	case !c.hides():
		c.value(v)
	case (name == "unqualified" || name == "canonical") && c.masker.Addresses != PlainAddresses:
		c.erase() // pieces of names and local parts
	case isList && name == "resent_blocks":
		c.list(list.Len(), func(i int) {
			block, ok := list.Elem(i).Value.(ast.Object)
			if !ok {
				c.any(list.Elem(i).Value)
				return
			}
			c.object(block, c.message)
		})
	case isList && name != "ambiguous" && name != "unreadable":
		c.mailboxes(list)
	default:
		c.any(v)
	}
}

// headerField appends an element of input.message.headers.
func (c *encoder) headerField(v ast.Value) {
	obj, ok := v.(ast.Object)
	if !ok {
		c.any(v)
		return
	}
	key := textOf(obj, "key")
	c.object(obj, func(name string, v ast.Value) {
		s, isText := v.(ast.String)
		switch {
		case name != "value" || !isText:
			c.value(v)
		case c.masker.erased(key):
			c.learn(string(s), erasedText, minGone)
			c.erase()
		default:
			c.field(key, string(s), c.text)
		}
	})
}

// headerValues appends an entry of input.message.header.
func (c *encoder) headerValues(key string, v ast.Value) {
	list, ok := v.(*ast.Array)
	if !ok {
		c.any(v)
		return
	}
	if c.masker.erased(key) {
		list.Foreach(func(t *ast.Term) {
			if s, ok := t.Value.(ast.String); ok {
				c.learn(string(s), erasedText, minGone)
			}
		})
		c.erase()
		return
	}
	c.list(list.Len(), func(i int) {
		s, ok := list.Elem(i).Value.(ast.String)
		if !ok {
			c.any(list.Elem(i).Value)
			return
		}
		c.field(key, string(s), c.text)
	})
}

// textOf returns a string of an object; "" where there is none.
func textOf(obj ast.Object, name string) string {
	if t := obj.Get(ast.InternedTerm(name)); t != nil {
		if s, ok := t.Value.(ast.String); ok {
			return string(s)
		}
	}
	return ""
}

// appendReplay appends what a replay needs beside the input: whether the transaction was SMTPUTF8, and the failure verdict where it is
// not Defer. It also needs parts. The absence of a fact means something only for parts that the input has.
func (e *Entry) appendReplay(dst []byte) []byte {
	if e.utf8 {
		dst = append(dst, `,"smtputf8":true`...)
	}
	if e.failure != engine.Defer {
		dst = appendField(dst, "on_error", e.failure.String())
	}
	return dst
}

// parts returns the member that names the parts of the input. If it is too long for a shortened line, it names none, so that nothing of the
// input counts as known.
func (c *encoder) parts(e *Entry) []byte {
	in, ok := e.input.(interface{ Parts() []string })
	if !ok || in.Parts() == nil {
		return nil
	}
	out := []byte(`,"parts":[`)
	for i, part := range in.Parts() {
		if i > 0 {
			out = append(out, ',')
		}
		out = engine.AppendString(out, part)
		if c.short && len(out) > c.max/partsShare {
			c.in("parts", func() { c.omit(len(in.Parts()), 0) })
			return []byte(`,"parts":[]`)
		}
	}
	return append(out, ']')
}
