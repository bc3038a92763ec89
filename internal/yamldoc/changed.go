package yamldoc

import (
	"slices"

	"go.yaml.in/yaml/v3"
)

// Changed returns the keys, as dotted paths, whose values differ between two documents: "relay.to", "auth[0].file". A list whose length
// differs is named itself, without what is in it. The names are sorted.
func Changed(a, b *Doc) []string {
	keys := changed("", a.root, b.root, nil)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// changed adds the keys that differ between two values. nil is a value that is not there.
func changed(key string, a, b *yaml.Node, keys []string) []string {
	if a == nil && b != nil && b.Kind == yaml.MappingNode {
		a = &yaml.Node{Kind: yaml.MappingNode}
	}
	if b == nil && a != nil && a.Kind == yaml.MappingNode {
		b = &yaml.Node{Kind: yaml.MappingNode}
	}
	switch {
	case a == nil && b == nil:
	case a == nil || b == nil || a.Kind != b.Kind:
		keys = append(keys, key)
	case a.Kind == yaml.MappingNode:
		left, right := members(a), members(b)
		for name := range left {
			keys = changed(join(key, name), left[name], right[name], keys)
		}
		for name := range right {
			if left[name] == nil {
				keys = changed(join(key, name), nil, right[name], keys)
			}
		}
	case a.Kind == yaml.SequenceNode && len(a.Content) == len(b.Content):
		for i := range a.Content {
			keys = changed(element(key, i), a.Content[i], b.Content[i], keys)
		}
	case a.Kind == yaml.SequenceNode || a.Value != b.Value:
		keys = append(keys, key)
	}
	return keys
}

// members returns the values of a mapping by their keys.
func members(n *yaml.Node) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		all[n.Content[i].Value] = n.Content[i+1]
	}
	return all
}
