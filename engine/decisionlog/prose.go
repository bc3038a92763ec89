package decisionlog

import (
	"strings"

	"github.com/postern-mail/postern/engine"
)

// Bounds of the words that are searched for in results, in octets.
const (
	minGone    = 4       // a shorter header value is a word like any other
	bodyWindow = 24      // so much of a body in a row is a quotation
	bodyStep   = 8       // every so many octets one looks
	minQuote   = 16      // a whole string of so much that stands in the body is one, too
	maxQuote   = 4 << 10 // a longer string is taken for one without looking, where policy has read the body
	minPerson  = 2       // a shorter login is a letter like any other
	minName    = 4       // display name, likewise
)

const erasedText = "[erased]"

// in runs its function below a pointer. name is a constant, and may be several names with slashes.
func (c *encoder) in(name string, f func()) {
	n := len(c.at)
	c.at = append(append(c.at, '/'), name...)
	f()
	c.at = c.at[:n]
}

var escapePointer = strings.NewReplacer("~", "~0", "/", "~1")

// key is in for a name from the transaction, which is escaped.
func (c *encoder) key(name string, f func()) { c.in(escapePointer.Replace(name), f) }

// erase and mark record that the current value was left out or masked.
func (c *encoder) erase() { c.erased = append(c.erased, string(c.at)) }
func (c *encoder) mark()  { c.masked = append(c.masked, string(c.at)) }

// replace appends a string in the place of s.
func (c *encoder) replace(s, by string) {
	c.dst = engine.AppendString(c.dst, by)
	if s != by {
		c.mark()
	}
}

// hides reports whether strings must be searched.
func (c *encoder) hides() bool {
	return c.masker.Addresses != PlainAddresses || c.masker.ClientIP != PlainClientIP
}

// person remembers a login, so that it is masked in prose.
func (c *encoder) person(s string) {
	if c.masker.Addresses == PlainAddresses || len(s) < minPerson || strings.Contains(s, "@") {
		return
	}
	c.known = append(c.known, known{s, c.masker.address(s)})
}

// learn remembers a value that was masked or left out, unless it is so short that it occurs by chance.
func (c *encoder) learn(s, by string, least int) {
	if s = strings.TrimSpace(s); len(s) >= least {
		c.told = append(c.told, known{s, by})
	}
}

// clean masks addresses and the words of list in prose.
func (c *encoder) clean(s string, list []known) string {
	rest := func(s string) string {
		for _, k := range list {
			s = words(s, k.word, k.by)
		}
		return s
	}
	if c.masker.Addresses == PlainAddresses {
		return rest(s)
	}
	return addresses(s, c.masker.address, rest)
}

// text appends a string of the input.
func (c *encoder) text(s string) { c.replace(s, c.clean(s, c.known)) }

// outcome appends a string from the policy, which may contain what the policy has read.
func (c *encoder) outcome(s string) {
	if c.quotes(s) {
		c.replace(s, erasedText)
		return
	}
	c.replace(s, c.clean(s, c.told))
}

// quotes reports whether s contains text of the body.
func (c *encoder) quotes(s string) bool {
	if c.body == "" {
		return false
	}
	if len(s) > maxQuote || len(s) >= minQuote && strings.Contains(c.body, s) {
		return true
	}
	for i := 0; i+bodyWindow <= len(s); i += bodyStep {
		if strings.Contains(c.body, s[i:i+bodyWindow]) {
			return true
		}
	}
	whole := strings.TrimSpace(c.body)
	return len(whole) >= minGone && strings.Contains(s, whole)
}

// field appends the value of a header field that is not erased; prose does so for a field that is not a list of addresses.
func (c *encoder) field(name, value string, prose func(string)) {
	if c.masker.Addresses == PlainAddresses || !addressing[strings.ToLower(name)] {
		prose(value)
		return
	}
	var list []string
	addresses(value, func(a string) string {
		list = append(list, c.masker.address(a))
		return ""
	}, func(s string) string { return s })
	if len(list) == 0 { // a name without a domain, a group without members
		list = []string{c.masker.address(strings.TrimSpace(value))}
	}
	c.replace(value, strings.Join(list, ", "))
}
