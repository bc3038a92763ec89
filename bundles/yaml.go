package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/postern-mail/postern/internal/table"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// maxYAML bounds a YAML document, in bytes. The library takes twenty times as much memory.
const maxYAML = 128 << 20

// Bounds of what the aliases of a YAML document may add: values, and bytes of text.
const (
	maxAliased     = 100_000
	maxAliasedText = 16 << 20
)

// parseYAML reads one YAML document as OPA does: scalars by the core schema, an unquoted time as its text, keys as strings. The
// library is the one that OPA uses, so stock OPA sees the same data.
func parseYAML(name string, content []byte, depth, large int, own bool) (any, error) {
	if len(content) > maxYAML {
		return nil, fault(name, "%d bytes of YAML; at most %d are read", len(content), maxYAML).hint("write it as JSON")
	}
	documents := yaml.NewDecoder(bytes.NewReader(content))
	document, err := yamldoc.Next(documents)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, yamlFault(name, content, err)
	}
	switch second, err := yamldoc.Next(documents); {
	case err == nil:
		return nil, fault(name, "a second document").at(content, second.Line, second.Column).hint("put it into a file of its own")
	case !errors.Is(err, io.EOF):
		return nil, yamlFault(name, content, err)
	}
	root := yamldoc.RootOf(document)
	if root == nil {
		return nil, nil
	}
	r := yamlReader{name: name, content: content, depth: depth, large: large, spelling: speller{on: own}}
	return r.value(root, 0)
}

type yamlReader struct {
	name         string
	content      []byte
	depth, large int
	inList       int // nesting of lists at the moment
	inAlias      int // nesting of aliases at the moment
	aliased      int // values that came from aliases so far
	aliasedText  int // bytes of text that came from aliases so far
	spelling     speller
}

func (r *yamlReader) fault(n *yaml.Node, format string, args ...any) *LoadError {
	return fault(r.name, format, args...).at(r.content, n.Line, n.Column)
}

func (r *yamlReader) value(n *yaml.Node, level int) (any, error) {
	if level > r.depth {
		return nil, r.fault(n, "more than %d levels deep", r.depth)
	}
	if r.inAlias > 0 {
		if r.aliased++; r.aliased > maxAliased {
			return nil, r.fault(n, "the aliases expand to more than %d values", maxAliased).hint("write them out")
		}
		if r.aliasedText += len(n.Value); r.aliasedText > maxAliasedText {
			return nil, r.fault(n, "the aliases expand to more than %d bytes", maxAliasedText).hint("write them out")
		}
	}
	switch n.Kind {
	case yaml.AliasNode:
		r.inAlias++
		defer func() { r.inAlias-- }()
		return r.value(n.Alias, level+1)
	case yaml.SequenceNode:
		r.inList++
		defer func() { r.inList-- }()
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := r.value(c, level+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		return r.mapping(n, level)
	case yaml.ScalarNode:
		return r.scalar(n)
	}
	return nil, nil
}

func (r *yamlReader) mapping(n *yaml.Node, level int) (any, error) {
	members := table.Members{Plain: r.inList > 0, Large: r.large}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		name, err := r.key(key)
		if err != nil {
			return nil, err
		}
		name = r.spelling.key(name, level)
		leave := r.spelling.enter(name, level)
		v, err := r.value(value, level+1)
		leave()
		if err != nil {
			return nil, err
		}
		if err := members.Add(name, v); err != nil {
			return nil, notAdded(r.fault(key, "%v", err), name, err)
		}
	}
	for _, m := range merges {
		if err := r.merge(&members, m, level); err != nil {
			return nil, err
		}
	}
	return members.Object(), nil
}

// merge carries out "<<". Keys that are there already stay, and of several mappings the first has precedence.
func (r *yamlReader) merge(members *table.Members, n *yaml.Node, level int) error {
	v, err := r.value(n, level+1)
	if err != nil {
		return err
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, one := range list {
		if !table.IsObject(one) {
			return r.fault(n, "<< merges mappings only")
		}
		for key, v := range table.Each(one) {
			if members.Has(key) {
				continue
			}
			if err := members.Add(key, v); err != nil {
				return r.fault(n, "%v", err).because(err)
			}
		}
	}
	return nil
}

// key returns a mapping's key as the string that OPA makes of it.
func (r *yamlReader) key(n *yaml.Node) (string, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return "", r.fault(n, "a key must be a plain value")
	}
	v, err := r.decode(n)
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int, int64, uint64:
		return fmt.Sprint(v), nil
	}
	return "", r.fault(n, "%s cannot be a key", quoted(n.Value)).hint("quote it")
}

func (r *yamlReader) scalar(n *yaml.Node) (any, error) {
	v, err := r.decode(n)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil, bool:
		return v, nil
	case string:
		return r.spelling.text(v), nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, r.fault(n, "%s is not a number that policies can use", n.Value)
		}
	}
	number, err := json.Marshal(v)
	if err != nil {
		return nil, r.fault(n, "%v", err).because(err)
	}
	return json.Number(number), nil
}

// decode resolves a scalar by its tag. Times stay text, because policies parse them.
func (r *yamlReader) decode(n *yaml.Node) (any, error) {
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp", "!!merge":
		return n.Value, nil
	case "!!null", "!!bool", "!!int", "!!float":
	default:
		return nil, r.fault(n, "the tag %s is not supported", tag).hint("remove it")
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, r.fault(n, "%v", err).because(err)
	}
	return v, nil
}

// yamlFault returns a fault at the line of an error of the YAML parser.
func yamlFault(name string, content []byte, err error) *LoadError {
	line, text := yamldoc.SyntaxError(err)
	f := fault(name, "not valid YAML: %s", text).because(err).at(content, line, 0)
	if strings.Contains(f.Text, "\t") {
		f.hint("indent with spaces, not tabs")
	}
	return f
}
