package decisionlog

import (
	"strings"
	"unicode/utf8"
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
func (c *encoder) erase() { c.erased = c.point(c.erased) }
func (c *encoder) mark()  { c.masked = c.point(c.masked) }

// replace appends a string in the place of s.
func (c *encoder) replace(s, by string) {
	c.str(by)
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
func (c *encoder) text(s string) {
	if c.mute == 0 {
		c.replace(s, c.clean(s, c.known))
	}
}

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
	if c.mute > 0 {
		return
	}
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

// addresses replaces each mail address in s with the result of f, and the text between addresses with the result of rest. An
// address without a domain is not recognised, because it looks like a word.
func addresses(s string, f, rest func(string) string) string {
	var out strings.Builder
	done := 0 // s up to here is in out
	for from := 0; ; {
		i := strings.IndexByte(s[from:], '@')
		if i < 0 {
			break
		}
		at := from + i
		from = at + 1
		start, end := localStart(s, done, at), domainEnd(s, at+1)
		if start == at || end == at+1 {
			continue
		}
		out.WriteString(rest(s[done:start]))
		out.WriteString(f(s[start:end]))
		done, from = end, end
	}
	if done == 0 {
		return rest(s)
	}
	out.WriteString(rest(s[done:]))
	return out.String()
}

// localStart returns the start of the local part before the "@" at position at, but not before least. It returns at where there
// is no local part.
func localStart(s string, least, at int) int {
	if at > least && s[at-1] == '"' {
		for i := at - 2; i >= least; i-- {
			if s[i] == '"' && (i == least || s[i-1] != '\\') {
				return i
			}
		}
		return at
	}
	start := at
	for start > least && localOctet(s[start-1]) {
		start--
	}
	// Punctuation around an address, or before it in name=value, is seldom part of it.
	for start < at && strings.IndexByte("'`{|*/=!#$%&?^~.", s[start]) >= 0 {
		start++
	}
	return start
}

// localOctet reports whether c may be in a dot-string (RFC 5321 §4.1.2, RFC 6531 §3.3).
func localOctet(c byte) bool {
	return c >= utf8.RuneSelf || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0
}

// domainEnd returns the end of the domain that begins at start; start where there is none.
func domainEnd(s string, start int) int {
	if start < len(s) && s[start] == '[' {
		if n := strings.IndexByte(s[start:], ']'); n > 1 {
			return start + n + 1
		}
		return start
	}
	end := start
	for end < len(s) && (s[end] >= utf8.RuneSelf || letterDigit(s[end]) || s[end] == '-' || s[end] == '.') {
		end++
	}
	for end > start && (s[end-1] == '.' || s[end-1] == '-') {
		end--
	}
	return end
}

func letterDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// words replaces each occurrence of word in s that is not part of a longer word. Case is ignored.
func words(s, word, by string) string {
	if len(word) == 0 || len(word) > len(s) {
		return s
	}
	var out strings.Builder
	done := 0
	for i := 0; i+len(word) <= len(s); {
		if s[i]|0x20 != word[0]|0x20 || !strings.EqualFold(s[i:i+len(word)], word) || inside(s, i, i+len(word)) {
			i++
			continue
		}
		out.WriteString(s[done:i])
		out.WriteString(by)
		i += len(word)
		done = i
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

// inside reports whether s[i:j] is part of a longer word.
func inside(s string, i, j int) bool {
	word := func(c byte) bool { return letterDigit(c) || c >= utf8.RuneSelf }
	return i > 0 && word(s[i-1]) && word(s[i]) || j < len(s) && word(s[j]) && word(s[j-1])
}
