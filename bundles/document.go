package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/table"
)

// parseDocument reads a data document, JSON or YAML by its name, into what OPA makes of it: map[string]any, []any,
// string, json.Number, bool and nil, with a *table.Table in the place of a large object. Beyond OPA it refuses keys that come
// twice, a second document, and levels past depth.
func parseDocument(name string, content []byte, depth int) (any, error) {
	return readDocument(name, content, depth, 0)
}

// readDocument takes the number of entries of a large object, too; 0: table.Large.
func readDocument(name string, content []byte, depth, large int) (any, error) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(content) {
		return nil, fault(name, "is not valid UTF-8").atOffset(content, firstInvalid(content))
	}
	if path.Ext(name) == ".json" || json.Valid(content) {
		return parseJSON(name, content, depth, large)
	}
	return parseYAML(name, content, depth, large)
}

func firstInvalid(content []byte) int {
	for i := 0; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(content)
}

// parseJSON is our own, because encoding/json lets the last of two equal keys win in silence, and because a large object goes
// into its table entry by entry: at no time is there a map of a million users.
func parseJSON(name string, content []byte, depth, large int) (any, error) {
	if !json.Valid(content) {
		var whole json.RawMessage
		return nil, jsonFault(name, content, json.Unmarshal(content, &whole))
	}
	r := jsonReader{name: name, content: content, depth: depth, large: large}
	return r.value(0)
}

func jsonFault(name string, content []byte, err error) *LoadError {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return fault(name, "%v", err).because(err)
	}
	f := fault(name, "%v", err).because(err).atOffset(content, int(syntax.Offset)-1)
	if int(syntax.Offset) >= len(content) && strings.Contains(err.Error(), "unexpected end") {
		f.Message = "the document ends too early"
	}
	return f
}

// jsonReader reads JSON that is known to be valid.
type jsonReader struct {
	name         string
	content      []byte
	at           int // offset of what comes next
	depth, large int
	inList       int // nesting of lists at the moment
}

// next passes over white space, and returns the octet after it.
func (r *jsonReader) next() byte {
	for {
		switch c := r.content[r.at]; c {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return c
		}
	}
}

func (r *jsonReader) value(level int) (any, error) {
	c := r.next()
	if (c == '{' || c == '[') && level >= r.depth {
		return nil, r.fault(r.at, "more than %d levels deep", r.depth)
	}
	switch c {
	case '{':
		return r.object(level)
	case '[':
		return r.array(level)
	case '"':
		return r.text()
	}
	start := r.at
	for r.at < len(r.content) && bytes.IndexByte([]byte(" \t\r\n,]}"), r.content[r.at]) < 0 {
		r.at++
	}
	switch word := string(r.content[start:r.at]); word {
	case "null":
		return nil, nil
	case "true", "false":
		return word == "true", nil
	default:
		return json.Number(word), nil
	}
}

func (r *jsonReader) array(level int) (any, error) {
	r.inList++
	defer func() { r.inList-- }()
	list := []any{}
	for r.more(']') {
		v, err := r.value(level + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (r *jsonReader) object(level int) (any, error) {
	members := table.Members{Plain: r.inList > 0, Large: r.large}
	for r.more('}') {
		r.next()
		start := r.at
		key, err := r.text()
		if err != nil {
			return nil, err
		}
		r.next()
		r.at++ // the colon
		v, err := r.value(level + 1)
		if err != nil {
			return nil, err
		}
		if err := members.Add(key, v); err != nil {
			return nil, notAdded(r.fault(start, "%v", err), key, err)
		}
	}
	return members.Object(), nil
}

// more passes over the bracket or comma before an element; false, and past it, at the closing bracket.
func (r *jsonReader) more(closing byte) bool {
	c := r.next()
	r.at++
	if c == closing {
		return false
	}
	if c == ',' {
		return true
	}
	if r.next() == closing { // after the opening bracket
		r.at++
		return false
	}
	return true
}

// text reads a string.
func (r *jsonReader) text() (string, error) {
	start := r.at
	escaped := false
	for r.at++; r.content[r.at] != '"'; r.at++ {
		if r.content[r.at] == '\\' {
			escaped = true
			r.at++
		}
	}
	r.at++
	if !escaped {
		return string(r.content[start+1 : r.at-1]), nil
	}
	var s string
	if err := json.Unmarshal(r.content[start:r.at], &s); err != nil {
		return "", r.fault(start, "%v", err).because(err)
	}
	return s, nil
}

// notAdded words why an object did not take a member.
func notAdded(f *LoadError, key string, err error) *LoadError {
	if errors.Is(err, table.ErrTwice) {
		f.Message = "the key " + quoted(key) + " is there twice"
		return f.hint("remove one of them")
	}
	return f.because(err)
}

func (r *jsonReader) fault(offset int, format string, args ...any) *LoadError {
	return fault(r.name, format, args...).atOffset(r.content, offset)
}

// quoted is a key as messages show it, cut to a sensible length.
func quoted(key string) string {
	const most = 100
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "..."
	}
	out, _ := json.Marshal(key)
	return string(out)
}
