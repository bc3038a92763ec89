package bundles

import (
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// Values from the cache are shared, so merging copies every object that it changes.

// place merges value at a path into root; it must not meet anything there but objects.
func place(root map[string]any, file string, value any) (map[string]any, *LoadError) {
	var keys []string
	if directory := path.Dir(file); directory != "." {
		keys = strings.Split(directory, "/")
	}
	for _, key := range slices.Backward(keys) {
		value = map[string]any{key: value}
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, fault(file, "a data file at the root must hold an object")
	}
	if at := clash(root, object, nil); at != nil {
		return nil, fault(file, "data.%s is defined by another data file too", strings.Join(at, ".")).hint("keep one of them")
	}
	return overlay(root, object), nil
}

// clash finds the first path that both hold and that is not an object in both.
func clash(a, b map[string]any, at []string) []string {
	for _, k := range slices.Sorted(maps.Keys(b)) {
		old, there := a[k]
		if !there {
			continue
		}
		here := append(slices.Clone(at), k)
		x, okX := old.(map[string]any)
		y, okY := b[k].(map[string]any)
		if !okX || !okY {
			return here
		}
		if found := clash(x, y, here); found != nil {
			return found
		}
	}
	return nil
}

// overlay merges b over a: objects key by key, of anything else b's. Neither is changed.
func overlay(a, b map[string]any) map[string]any {
	if len(a) == 0 {
		return b
	}
	merged := maps.Clone(a)
	for k, v := range b {
		if y, ok := v.(map[string]any); ok {
			if x, ok := merged[k].(map[string]any); ok {
				merged[k] = overlay(x, y)
				continue
			}
		}
		merged[k] = v
	}
	return merged
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

// outside returns the first path of data that the manifest's roots do not permit; "" when all is within them.
func outside(roots []string, data map[string]any) string {
	var look func(at []string, v any) string
	look = func(at []string, v any) string {
		here := strings.Join(at, "/")
		if bundle.RootPathsContain(roots, here) {
			return ""
		}
		object, ok := v.(map[string]any)
		within := slices.ContainsFunc(roots, func(root string) bool { return bundle.RootPathsContain([]string{here}, root) })
		if !ok || !within {
			return "/" + here
		}
		for _, k := range slices.Sorted(maps.Keys(object)) {
			if found := look(append(slices.Clone(at), k), object[k]); found != "" {
				return found
			}
		}
		return ""
	}
	return look(nil, data)
}

// WithDocument is the candidate's data with one more document, YAML or JSON, merged over it as extra documents are; the
// candidate itself stays as it is. name stands for the document in errors, which are *LoadError.
func (c *Candidate) WithDocument(name string, text []byte) (map[string]any, error) {
	value, err := parseDocument(name, text, Limits{}.orDefault().Depth)
	if err != nil {
		var load *LoadError
		if errors.As(err, &load) {
			load.File = ""
		}
		return nil, from(name, err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, &LoadError{Source: name, Line: 1, Text: lineOf(text, 1), Message: "a data document must hold an object",
			Hint: "for example: senders: {alice: [alice@example.com]}"}
	}
	return overlay(c.Bundle.Data, object), nil
}
