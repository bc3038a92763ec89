package contract

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Parts is a set of the facts that are built one by one, each only where a policy reads it. The constants (parts_gen.go) are
// in the order of the declaration. Version, stage, id, now and unknown are no parts because every input has them.
type Parts uint64

// PartPaths returns the dotted path in input of each part, in the order of the constants.
func PartPaths() []string {
	var paths []string
	eachPart(func(path string, _ *Fact) { paths = append(paths, path) })
	return paths
}

// StageParts returns the parts that a transaction can have at stage s.
func StageParts(s Stage) Parts {
	var out Parts
	bit := Parts(1)
	eachPart(func(_ string, f *Fact) {
		if f.At(s) {
			out |= bit
		}
		bit <<= 1
	})
	return out
}

// eachPart calls f with every part and its path. A part inherits the stages of the objects that hold it.
func eachPart(f func(path string, part *Fact)) {
	var walk func(prefix string, parent *Fact)
	walk = func(prefix string, parent *Fact) {
		for i := range parent.Fields {
			fact := parent.Fields[i]
			if fact.From == 0 && fact.Only == 0 {
				fact.From, fact.Only = parent.From, parent.Only
			}
			if fact.Part {
				f(prefix+fact.Name, &fact)
			} else {
				walk(prefix+fact.Name+".", &fact)
			}
		}
	}
	walk("", Facts())
}

// PartsOf returns the parts at, above or below a path in input; the empty path is the whole input. paths are PartPaths.
func PartsOf(paths, path []string) Parts {
	if len(path) == 0 {
		return PartsAll
	}
	have := strings.Join(path, ".") + "."
	var out Parts
	for i, p := range paths {
		p += "."
		if strings.HasPrefix(p, have) || strings.HasPrefix(have, p) {
			out |= 1 << i
		}
	}
	return out
}

// ConstantPath returns the longest run of string elements at the start of a reference.
func ConstantPath(ref ast.Ref) []string {
	var path []string
	for _, t := range ref {
		s, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		path = append(path, string(s))
	}
	return path
}
