package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"strings"
	"unicode/utf8"
)

// parseDocument reads a data document, JSON or YAML by its name, into what OPA makes of it: map[string]any, []any,
// string, json.Number, bool and nil. Beyond OPA it refuses keys that come twice, a second document, and levels past depth.
func parseDocument(name string, content []byte, depth int) (any, error) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(content) {
		return nil, fault(name, "is not valid UTF-8").atOffset(content, firstInvalid(content))
	}
	if path.Ext(name) == ".json" || json.Valid(content) {
		return parseJSON(name, content, depth)
	}
	return parseYAML(name, content, depth)
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

// parseJSON reads token by token, because encoding/json lets the last of two equal keys win in silence.
func parseJSON(name string, content []byte, depth int) (any, error) {
	var whole json.RawMessage
	if err := json.Unmarshal(content, &whole); err != nil { // only the decoder of whole documents gives true offsets
		return nil, jsonFault(name, content, err)
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	r := jsonReader{d: d, name: name, content: content, depth: depth}
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

type jsonReader struct {
	d       *json.Decoder
	name    string
	content []byte
	depth   int
}

func (r *jsonReader) value(level int) (any, error) {
	token, err := r.token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if level >= r.depth {
		return nil, r.here("more than %d levels deep", r.depth)
	}
	if delim == '[' {
		return r.array(level)
	}
	return r.object(level)
}

func (r *jsonReader) array(level int) (any, error) {
	list := []any{}
	for r.d.More() {
		v, err := r.value(level + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := r.token()
	return list, err
}

func (r *jsonReader) object(level int) (any, error) {
	object := map[string]any{}
	for r.d.More() {
		token, err := r.token()
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok {
			return nil, r.here("an object's key must be a string")
		}
		if _, twice := object[key]; twice {
			return nil, r.here("the key %s is there twice", quoted(key)).hint("remove one of them")
		}
		if object[key], err = r.value(level + 1); err != nil {
			return nil, err
		}
	}
	_, err := r.token()
	return object, err
}

func (r *jsonReader) token() (json.Token, error) {
	token, err := r.d.Token()
	if err == nil {
		return token, nil
	}
	return nil, r.here("%v", err).because(err)
}

// here is a fault at the token that was read last.
func (r *jsonReader) here(format string, args ...any) *LoadError {
	return fault(r.name, format, args...).atOffset(r.content, int(r.d.InputOffset())-1)
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
