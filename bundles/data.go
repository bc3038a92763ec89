package bundles

import (
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/internal/table"
)

// Values from the cache are shared, so merging copies every object that it changes. An object is a map[string]any or a
// *table.Table. The root of all data is always a map.

// root returns a document's value as the root of data; false if it is not an object.
func root(value any) (map[string]any, bool) {
	if t, ok := value.(*table.Table); ok {
		value = table.Unpack(t)
	}
	object, ok := value.(map[string]any)
	return object, ok
}

// place merges the value of a data file into data, at the path of the file's directory. It is an error if both define the same
// path, unless both values are objects.
func place(data map[string]any, file string, value any) (map[string]any, *LoadError) {
	var keys []string
	if directory := path.Dir(file); directory != "." {
		keys = strings.Split(directory, "/")
	}
	for _, key := range slices.Backward(keys) {
		value = map[string]any{key: value}
	}
	object, ok := root(value)
	if !ok {
		return nil, fault(file, "a data file at the root must hold an object")
	}
	if at := clash(data, object, nil); at != nil {
		return nil, fault(file, "data.%s is defined by another data file too", strings.Join(at, ".")).hint("keep one of them")
	}
	return overlay(data, object), nil
}

// clash returns the first path that both hold and that is not an object in both.
func clash(a, b any, at []string) []string {
	if table.Size(a) == 0 {
		return nil
	}
	for key, fresh := range table.Each(b) {
		old, there := table.Look(a, key)
		if !there {
			continue
		}
		here := append(slices.Clone(at), key)
		x, y := table.Plain(old), table.Plain(fresh)
		if !table.IsObject(x) || !table.IsObject(y) {
			return here
		}
		if found := clash(x, y, here); found != nil {
			return found
		}
	}
	return nil
}

// overlay merges b over a: objects key by key; of any other two values, b's stays. Neither a nor b is changed.
func overlay(a, b map[string]any) map[string]any {
	if len(a) == 0 {
		return b
	}
	merged := maps.Clone(a)
	for k, v := range b {
		merged[k] = over(merged[k], v)
	}
	return merged
}

// over merges y over x if both are objects, and returns y otherwise.
func over(x, y any) any {
	switch {
	case !table.IsObject(x) || !table.IsObject(y) || table.Size(x) == 0:
		return y
	case table.Size(y) == 0:
		return x
	}
	a, plainA := x.(map[string]any)
	b, plainB := y.(map[string]any)
	if plainA && plainB {
		return overlay(a, b)
	}
	var both table.Members // its errors cannot happen: keys are unique, and Limits.Total is far below what fits
	for key, v := range table.Each(x) {
		if top, there := table.Look(y, key); there {
			v = over(table.Plain(v), table.Plain(top))
		}
		_ = both.Add(key, v)
	}
	for key, v := range table.Each(y) {
		if !both.Has(key) {
			_ = both.Add(key, v)
		}
	}
	return both.Object()
}

// readDocuments reads the extra data documents from disk.
func readDocuments(ctx context.Context, names []string, limits Limits) ([]File, error) {
	limits = limits.orDefault()
	files := make([]File, 0, len(names))
	left := limits.Total
	for _, name := range names {
		switch path.Ext(name) {
		case ".json", ".yaml", ".yml":
		default:
			return nil, &LoadError{Source: name, Message: "a data document must be named .yaml, .yml or .json"}
		}
		data, err := readWhole(ctx, name, min(limits.File, left))
		if err != nil {
			return nil, from(name, err)
		}
		left -= int64(len(data))
		files = append(files, newFile(name, data))
	}
	return files, nil
}

// outside returns the first path of data that the manifest's roots do not permit; "" if they permit all.
func outside(roots []string, data map[string]any) string {
	var look func(at []string, v any) string
	look = func(at []string, v any) string {
		here := strings.Join(at, "/")
		if bundle.RootPathsContain(roots, here) {
			return ""
		}
		object := table.Plain(v)
		within := slices.ContainsFunc(roots, func(root string) bool { return bundle.RootPathsContain([]string{here}, root) })
		if !table.IsObject(object) || !within {
			return "/" + here
		}
		for key, child := range table.Each(object) {
			if found := look(append(slices.Clone(at), key), child); found != "" {
				return found
			}
		}
		return ""
	}
	return look(nil, data)
}

// WithDocument returns the candidate's data with one more document, YAML or JSON, merged over it as extra documents are. It
// does not change the candidate. name names the document in errors, which are *LoadError.
func (c *Candidate) WithDocument(name string, text []byte) (map[string]any, error) {
	value, err := parseDocument(name, text, Limits{}.orDefault().Depth, true)
	if err != nil {
		var load *LoadError
		if errors.As(err, &load) {
			load.File = ""
		}
		return nil, from(name, err)
	}
	object, ok := root(value)
	if !ok {
		return nil, &LoadError{Source: name, Line: 1, Text: lineOf(text, 1), Message: "a data document must hold an object",
			Hint: "for example: senders: {alice: [alice@example.com]}"}
	}
	return overlay(c.Bundle.Data, object), nil
}

// Unpacked returns data with large objects as maps, as OPA has them. They take several times the memory of packed ones. data is
// not changed.
func Unpacked(data map[string]any) map[string]any {
	out, _ := table.Unpack(data).(map[string]any)
	return out
}
