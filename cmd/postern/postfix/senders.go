package postfix

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/message"
)

// Senders is a table of smtpd_sender_login_maps by login: the addresses that each login may send as, in the order of the file.
type Senders map[string][]string

// Problem is an entry of a table that cannot be converted.
type Problem struct {
	File    string
	Line    int // where the entry begins
	Message string
}

// Error implements error.
func (p Problem) Error() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message) }

// Problems are all problems of a table.
type Problems []Problem

// Error implements error.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// maxSenderMap bounds the size of a table, in bytes.
const maxSenderMap = 64 << 20

// entry is an entry of a table: a lookup key and the logins that own it.
type entry struct {
	line   int
	key    string
	logins []string
}

// ReadSenderMap reads the source of an indexed table (postmap(1): hash, btree, lmdb, cdb, texthash). A key without a domain is a local part
// and stands for that name in each of domains. login returns a login in the form in which logins are compared, or false if it is not a
// login. An error is Problems, or says that the table is too long.
//
// The second result names the logins that would get more rights than in Postfix. There the entry of an address hides the entry of its
// domain; in Senders rights add up.
func ReadSenderMap(name string, data []byte, domains []string, login func(string) (string, bool)) (Senders, Problems, error) {
	if len(data) > maxSenderMap {
		return nil, nil, fmt.Errorf("%s: is longer than %d bytes", name, maxSenderMap)
	}
	r := &senderMap{name: name, domains: domains, login: login, keys: map[string]entry{}}
	for _, l := range logicalLines(data) {
		r.entry(l.number, l.text)
	}
	if len(r.bad) > 0 {
		return nil, nil, r.bad
	}
	out := Senders{}
	order := slices.SortedFunc(maps.Values(r.keys), func(a, b entry) int { return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.key, b.key)) })
	for _, e := range order {
		for _, l := range e.logins {
			if !slices.Contains(out[l], e.key) {
				out[l] = append(out[l], e.key)
			}
		}
	}
	// The first address of a login is its own, so domains come last.
	for _, addresses := range out {
		slices.SortStableFunc(addresses, func(a, b string) int { return cmp.Compare(isDomain(a), isDomain(b)) })
	}
	return out, r.wider(order), nil
}

// isDomain returns 1 for @domain and 0 for an address.
func isDomain(address string) int {
	if address[0] == '@' {
		return 1
	}
	return 0
}

type senderMap struct {
	name    string
	domains []string
	login   func(string) (string, bool)
	keys    map[string]entry
	bad     Problems
}

func (r *senderMap) fail(line int, format string, args ...any) {
	r.bad = append(r.bad, Problem{r.name, line, fmt.Sprintf(format, args...)})
}

type logicalLine struct {
	number int
	text   string
}

// logicalLines joins each line that begins with white space to the line before it. It leaves out empty lines and comments, also between the
// lines of one entry (postmap(1)).
func logicalLines(data []byte) (lines []logicalLine) {
	number := 0
	for raw := range bytes.Lines(data) {
		number++
		text := strings.TrimRight(string(raw), "\r\n")
		trimmed := strings.TrimSpace(text)
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case (text[0] == ' ' || text[0] == '\t') && len(lines) > 0:
			lines[len(lines)-1].text += " " + trimmed
		default:
			lines = append(lines, logicalLine{number, text})
		}
	}
	return lines
}

// entry reads one logical line.
func (r *senderMap) entry(line int, text string) {
	switch {
	case text[0] == ' ' || text[0] == '\t':
		r.fail(line, "this line continues no entry; begin its key in the first column")
		return
	case text[0] == '/' || text[0] == '!' || strings.HasPrefix(text, "if ") || strings.HasPrefix(text, "endif"):
		r.fail(line, "this is a table of patterns (regexp or pcre), which cannot be converted; list the addresses, or write @domain")
		return
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
		r.fail(line, "the line is not UTF-8, or has a control character")
		return
	}
	key, value := text, ""
	if i := strings.IndexAny(text, " \t"); i >= 0 && text[0] != '"' {
		key, value = text[:i], text[i:]
	}
	if text[0] == '"' || strings.ContainsAny(key, `"\`) {
		r.fail(line, "a quoted address cannot be converted; write its entry by hand")
		return
	}
	logins := r.logins(line, value)
	if len(logins) == 0 {
		return
	}
	key = strings.ToLower(key)
	local, domain, qualified := strings.Cut(key, "@")
	switch {
	case !isKey(local, domain, qualified):
		r.fail(line, "%q is not an address; write user@domain or @domain", key)
	case qualified:
		r.put(line, key, logins)
	case len(r.domains) == 0:
		r.fail(line, "%q has no domain, so Postfix uses it for every domain of its own; name these domains with --domain", local)
	default:
		for _, d := range r.domains {
			r.put(line, local+"@"+strings.ToLower(d), logins)
		}
	}
}

// isKey reports whether a lookup key can be an address. Postfix accepts anything up to white space.
func isKey(local, domain string, qualified bool) bool {
	if local == "" && qualified {
		local = "postmaster"
	}
	if !qualified {
		domain = "example.com"
	}
	_, err := message.ParseMailbox(local+"@"+domain, true)
	return err == nil
}

// logins reads the logins of an entry, which are separated by commas or white space.
func (r *senderMap) logins(line int, value string) (out []string) {
	fields := strings.FieldsFunc(value, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' })
	if len(fields) == 0 {
		r.fail(line, "the entry has no login after its key")
	}
	for _, f := range fields {
		l, ok := r.login(f)
		if !ok {
			r.fail(line, "%q cannot be a login", f)
			return nil
		}
		out = append(out, l)
	}
	return out
}

func (r *senderMap) put(line int, key string, logins []string) {
	if before, twice := r.keys[key]; twice {
		r.fail(line, "%s is in line %d, too, and Postfix uses only one of the two; remove the other", key, before.line)
		return
	}
	r.keys[key] = entry{line, key, logins}
}

// wider finds addresses whose entry lacks a login that the entry of the whole domain has.
func (r *senderMap) wider(order []entry) (found Problems) {
	for _, e := range order {
		at := strings.LastIndexByte(e.key, '@')
		whole, there := r.keys[e.key[at:]]
		if at == 0 || !there {
			continue
		}
		for _, l := range whole.logins {
			if !slices.Contains(e.logins, l) {
				found = append(found, Problem{r.name, e.line, fmt.Sprintf("%s has all of %s (line %d) and could then send as %s, which Postfix does not allow", l, whole.key, whole.line, e.key)})
			}
		}
	}
	return found
}
