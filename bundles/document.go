package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/postern-mail/postern/internal/table"
)

// parseDocument reads a data document, which is JSON or YAML by its name, into the types that OPA uses: map[string]any, []any,
// string, json.Number, bool and nil, with a *table.Table in place of a large object. Unlike OPA it refuses keys that come
// twice, a second document, and more than depth levels. own says that it is one of the operator's, and not of a bundle.
func parseDocument(name string, content []byte, depth int, own bool) (any, error) {
	return readDocument(name, content, depth, 0, own)
}

// readDocument is parseDocument with the number of entries from which an object is large; 0: table.Large.
func readDocument(name string, content []byte, depth, large int, own bool) (any, error) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(content) {
		return nil, fault(name, "is not valid UTF-8").atOffset(content, firstInvalid(content))
	}
	if path.Ext(name) == ".json" || json.Valid(content) {
		return parseJSON(name, content, depth, large, own)
	}
	return parseYAML(name, content, depth, large, own)
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

// parseJSON reads one JSON value token by token. A large object goes into its table entry by entry, so that there is never a
// map of a million users. A key that comes twice is an error.
func parseJSON(name string, content []byte, depth, large int, own bool) (any, error) {
	r := jsonReader{
		// Half a surrogate pair becomes U+FFFD, as in OPA's own reader. Keys are compared in object.
		dec:  jsontext.NewDecoder(bytes.NewBuffer(content), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)),
		name: name, content: content, depth: depth, large: large, spelling: speller{on: own},
	}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	switch _, err := r.dec.ReadToken(); {
	case errors.Is(err, io.EOF):
		return v, nil
	case err != nil:
		return nil, r.syntax(err)
	}
	return nil, r.fault(r.offset()-1, "another value follows the first").hint("keep one value in a file")
}

// jsonReader turns the tokens of a document into Go values.
type jsonReader struct {
	dec          *jsontext.Decoder
	name         string
	content      []byte
	depth, large int
	inList       int // number of lists around the current value
	spelling     speller
}

// offset returns the position in content after the last token.
func (r *jsonReader) offset() int { return int(r.dec.InputOffset()) }

func (r *jsonReader) value(level int) (any, error) {
	t, err := r.dec.ReadToken()
	if err != nil {
		return nil, r.syntax(err)
	}
	switch kind := t.Kind(); kind {
	case jsontext.KindBeginObject, jsontext.KindBeginArray:
		if level >= r.depth {
			return nil, r.fault(r.offset()-1, "more than %d levels deep", r.depth)
		}
		if kind == jsontext.KindBeginObject {
			return r.object(level)
		}
		return r.array(level)
	case jsontext.KindString:
		return r.spelling.text(t.String()), nil
	case jsontext.KindNumber:
		return json.Number(t.String()), nil
	case jsontext.KindTrue, jsontext.KindFalse:
		return kind == jsontext.KindTrue, nil
	}
	return nil, nil
}

func (r *jsonReader) array(level int) (any, error) {
	r.inList++
	defer func() { r.inList-- }()
	list := []any{}
	for r.more(jsontext.KindEndArray) {
		v, err := r.value(level + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return nil, r.syntax(err)
	}
	return list, nil
}

func (r *jsonReader) object(level int) (any, error) {
	members := table.Members{Plain: r.inList > 0, Large: r.large}
	for r.more(jsontext.KindEndObject) {
		before := r.offset()
		t, err := r.dec.ReadToken()
		if err != nil {
			return nil, r.syntax(err)
		}
		key := r.spelling.key(t.String(), level)
		leave := r.spelling.enter(key, level)
		v, err := r.value(level + 1)
		leave()
		if err != nil {
			return nil, err
		}
		if err := members.Add(key, v); err != nil {
			start := before + bytes.IndexByte(r.content[before:], '"') // only white space and a comma come before the key
			return nil, notAdded(r.fault(start, "%v", err), key, err)
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return nil, r.syntax(err)
	}
	return members.Object(), nil
}

// more reports whether a value or a syntax error comes before the closing bracket.
func (r *jsonReader) more(closing jsontext.Kind) bool {
	kind := r.dec.PeekKind()
	return kind != closing && kind != jsontext.KindInvalid
}

// syntax returns a fault at the place of an error of the decoder.
func (r *jsonReader) syntax(err error) *LoadError {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return r.fault(len(r.content)-1, "the document ends too early").because(err)
	case errors.As(err, &syntax):
		f := r.fault(int(syntax.ByteOffset), "%v", syntax.Err).because(err)
		if at := int(syntax.ByteOffset); at < len(r.content) && r.content[at] == ',' {
			f.hint("remove the comma, or write the value that should follow it")
		}
		return f
	}
	return r.fault(r.offset(), "%v", err).because(err)
}

func (r *jsonReader) fault(offset int, format string, args ...any) *LoadError {
	return fault(r.name, format, args...).atOffset(r.content, offset)
}
