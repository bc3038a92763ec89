package bundles

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// maxDependencies bounds tests times rules in one run: OPA's compiler notes for each test every rule of each set that it looks
// at, some 200 octets a pair.
const maxDependencies = 1_000_000

// TestParts splits a bundle so that no part has so many tests for its rules that to compile them would take all memory. Each
// part has all modules, and its share of the test rules; their results together are those of the whole. Most bundles are one
// part, themselves; one without tests is none.
func TestParts(b *bundle.Bundle) []*bundle.Bundle {
	return testParts(b, maxDependencies)
}

func testParts(b *bundle.Bundle, most int) []*bundle.Bundle {
	tests, rules := 0, 0
	for _, m := range b.Modules {
		for _, r := range m.Parsed.Rules {
			if isTestRule(r) {
				tests++
			} else {
				rules++
			}
		}
	}
	if tests == 0 {
		return nil
	}
	share := max(1, most/max(1, rules))
	if tests <= share {
		return []*bundle.Bundle{b}
	}
	var parts []*bundle.Bundle
	for from := 0; from < tests; from += share {
		parts = append(parts, testPart(b, from, from+share))
	}
	return parts
}

// testPart keeps the test rules from one number on up to another.
func testPart(b *bundle.Bundle, from, to int) *bundle.Bundle {
	part := *b
	part.Modules = make([]bundle.ModuleFile, len(b.Modules))
	number := 0
	for i, m := range b.Modules {
		kept := make([]*ast.Rule, 0, len(m.Parsed.Rules))
		for _, r := range m.Parsed.Rules {
			if !isTestRule(r) {
				kept = append(kept, r)
				continue
			}
			if number >= from && number < to {
				kept = append(kept, r)
			}
			number++
		}
		if len(kept) < len(m.Parsed.Rules) {
			module := *m.Parsed
			module.Rules = kept
			module.Annotations = nil // they would be of rules that are not there
			m.Parsed = &module
		}
		part.Modules[i] = m
	}
	return &part
}

func isTestRule(r *ast.Rule) bool {
	name := string(r.Head.Name)
	if name == "" && len(r.Head.Reference) > 0 {
		if v, ok := r.Head.Reference[0].Value.(ast.Var); ok {
			name = string(v)
		}
	}
	return strings.HasPrefix(name, "test_") || strings.HasPrefix(name, "todo_test_")
}
