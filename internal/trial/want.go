package trial

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// want is one key of the section want with all its values, in order.
type want struct {
	key    string
	field  string // of header: the name of the field as the case writes it
	values []string
}

// single are the keys of want that may be there only once. The others make lists.
var single = map[string]bool{"verdict": true, "stage": true, "reply": true, "from": true}

// sets are the decision sets whose elements are reasons, and the names for a failure and for a transaction that no rule allowed.
var sets = []string{"allow", "reject", "defer", "quarantine", "discard", "default", "error"}

func wantKeys() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(single)), append(sets, "refused", "to", "note", "header")...)))
}

// want reads the section want: "key: value" lines.
func (c *Case) want(s section) {
	c.Want = string(s.data)
	s.each(func(line, column int, text string) {
		key, value, ok := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		if !ok || !slices.Contains(wantKeys(), key) {
			c.find(line, column, fmt.Sprintf("unknown key %q", cut(key, 60)), near(key, wantKeys()))
			return
		}
		given := len(value)
		value, problem, mend := wanted(key, value)
		if problem != "" {
			c.find(line, column+len(text)-given, problem, mend)
			return
		}
		field := ""
		if key == "header" {
			field, value, _ = strings.Cut(value, ": ")
		}
		i := slices.IndexFunc(c.wants, func(w want) bool { return w.key == key && strings.EqualFold(w.field, field) })
		if i < 0 {
			c.wants = append(c.wants, want{key: key, field: field})
			i = len(c.wants) - 1
		} else if single[key] {
			c.find(line, column, key+" stands here a second time", "keep one of the two")
			return
		}
		if value != "" { // a key without a value wants that there is none
			c.wants[i].values = append(c.wants[i].values, value)
		}
	})
}

// wanted checks a value and returns it in the form of results.
func wanted(key, value string) (normal, problem, mend string) {
	choice := func(words ...string) (string, string, string) {
		if slices.Contains(words, value) {
			return value, "", ""
		}
		return value, fmt.Sprintf("%q is no %s", value, key), near(value, words)
	}
	switch key {
	case "verdict":
		return choice("accept", "reject", "defer", "quarantine", "discard")
	case "stage":
		return choice("connect", "mail", "rcpt", "message")
	case "note":
		var v any
		if value == "" {
			return "", "", ""
		}
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			return value, "a note is JSON: " + err.Error(), `write a string in quotes: "seen"`
		}
		return encoded(v), "", ""
	case "header":
		name, v, ok := strings.Cut(value, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t") {
			return value, "this is no header field", "write header: NAME: VALUE, or header: NAME: for none of that name"
		}
		return name + ": " + strings.TrimSpace(v), "", ""
	case "from", "to":
		if value == "" {
			return "", "", ""
		}
		p, params, err := ParsePath(value)
		if err == nil && len(params) > 0 {
			err = fmt.Errorf("an address with parameters")
		}
		if err != nil {
			return value, err.Error(), "write <local@domain>; <> is the null sender"
		}
		return p.String(), "", ""
	case "refused":
		if value != "" && !strings.HasPrefix(value, "RCPT TO:<") {
			return value, "only a recipient is refused by itself", "write refused: RCPT TO:<address>: 550 5.7.1 text"
		}
	}
	return value, "", ""
}

// encoded returns v as JSON on one line, with sorted keys.
func encoded(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}

// Difference is a section of a case from which the result differs.
type Difference struct {
	Section   string // "want" or "want.eml"
	Want, Got []byte
}

// Compare returns the sections from which r differs, or nil. It compares only the keys in the section want, and the bytes only if there is a
// want.eml.
func (c *Case) Compare(r *Result) []Difference {
	var out []Difference
	var wanted, got bytes.Buffer
	for _, w := range c.wants {
		wanted.WriteString(w.text(w.values))
		got.WriteString(w.text(r.values(w)))
	}
	if !bytes.Equal(wanted.Bytes(), got.Bytes()) {
		out = append(out, Difference{"want", wanted.Bytes(), got.Bytes()})
	}
	if msg := r.Bytes(); c.WantMessage != nil && !bytes.Equal(c.WantMessage, msg) {
		out = append(out, Difference{"want.eml", c.WantMessage, msg})
	}
	return out
}

// text returns a key with its values in the form of the section want.
func (w want) text(values []string) string {
	key := w.key + ":"
	if w.field != "" {
		key += " " + w.field + ":"
	}
	if len(values) == 0 {
		return key + "\n"
	}
	var b strings.Builder
	for _, v := range values {
		b.WriteString(key + " " + v + "\n")
	}
	return b.String()
}

// values returns what a result has for a key of the section want.
func (r *Result) values(w want) (out []string) {
	d := r.Final
	switch w.key {
	case "header":
		return r.fields(w.field)
	case "verdict":
		return []string{d.Verdict.String()}
	case "stage":
		return []string{d.Stage.String()}
	case "reply":
		if !d.Reply.IsZero() {
			out = append(out, d.Reply.String())
		}
	case "refused":
		for _, s := range r.Steps {
			if s.Decision.Stage == engine.StageRcpt && s.Decision.Verdict != engine.Accept {
				out = append(out, s.Command+": "+s.Decision.Reply.String())
			}
		}
	case "from":
		if r.After != nil {
			out = append(out, r.Envelope.From.String())
		}
	case "to":
		if r.After != nil {
			for _, to := range r.Envelope.To {
				out = append(out, to.Path.String())
			}
		}
	case "note":
		for _, n := range d.Notes {
			out = append(out, encoded(n))
		}
	default:
		for _, x := range d.Reasons {
			if x.Set == w.key {
				out = append(out, strings.TrimSpace(x.Rule))
			}
		}
	}
	return out
}

// fields returns the header fields of a name after the edits, unfolded.
func (r *Result) fields(name string) (out []string) {
	h, err := message.ParseHeader(r.After, message.Limits{})
	if r.After == nil || err != nil {
		return nil
	}
	for i := range h.Len() {
		if f := h.Field(i); strings.EqualFold(f.Name(), name) {
			out = append(out, strings.TrimSpace(f.Value()))
		}
	}
	return out
}

// Describe returns a result in the form of the section want, with one line a fact in a fixed order.
func (r *Result) Describe() string {
	var b strings.Builder
	all := func(keys ...string) {
		for _, k := range keys {
			if v := r.values(want{key: k}); len(v) > 0 {
				b.WriteString(want{key: k}.text(v))
			}
		}
	}
	all("verdict", "stage", "reply")
	for _, x := range r.Final.Reasons {
		fmt.Fprintf(&b, "%s: %s\n", x.Set, x.Rule)
	}
	all("refused", "from", "to")
	return b.String()
}

// Update returns the file of the case with the result in the place of what it wants. A case that wants some keys only, or no bytes, wants the
// same part afterwards. If the verdict differs, or the case does not name one, it wants everything.
func (c *Case) Update(r *Result) ([]byte, error) {
	text, msg := r.Describe(), r.Bytes()
	if len(c.wants) > 0 && c.Verdict() == r.Final.Verdict.String() || len(c.wants) == 0 && c.Wants() {
		var b strings.Builder
		for _, w := range c.wants {
			b.WriteString(w.text(r.values(w)))
		}
		if text = b.String(); c.WantMessage == nil {
			msg = nil
		}
	}
	out := c.write(text, msg)
	// The file is read again, because a section cannot hold everything, such as a line that looks like the beginning of a section.
	again, err := ParseCase(c.Name, out)
	if err == nil && len(again.Compare(r)) > 0 {
		err = fmt.Errorf("%s: the result cannot be written into a txtar file; does it hold a line like -- name --?", c.Name)
	}
	return out, err
}

// Verdict returns the verdict that the case wants, or "".
func (c *Case) Verdict() string {
	for _, w := range c.wants {
		if w.key == "verdict" {
			return strings.Join(w.values, "")
		}
	}
	return ""
}

// write returns the file with new sections want and want.eml, in their old places or at the end. A nil msg leaves want.eml out.
func (c *Case) write(text string, msg []byte) []byte {
	sections := map[string][]byte{"want": []byte(text)}
	if text == "" {
		delete(sections, "want")
	}
	if msg != nil {
		sections["want.eml"] = bytes.ReplaceAll(msg, []byte("\r\n"), []byte("\n"))
	}
	var files []txtar.File
	for _, f := range c.archive.Files {
		if data, ok := sections[f.Name]; ok {
			f.Data = data
			delete(sections, f.Name)
		} else if f.Name == "want" || f.Name == "want.eml" {
			continue
		}
		files = append(files, f)
	}
	for _, name := range []string{"want", "want.eml"} {
		if data, ok := sections[name]; ok {
			files = append(files, txtar.File{Name: name, Data: data})
		}
	}
	return txtar.Format(&txtar.Archive{Comment: c.archive.Comment, Files: files})
}
