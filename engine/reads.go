package engine

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// parts of the input that are built one by one, only where a policy reads them. Version, stage, id, now and unknown are
// always there.
type parts uint32

const (
	partServer parts = 1 << iota
	partClient
	partTLS
	partAuth
	partFrom
	partTo
	partRecipientCount
	partRecipient
	partSize
	partHeaders
	partHeader
	partHeaderFrom
	partHeaderSender
	partHeaderReplyTo
	partHeaderTo
	partHeaderCc
	partHeaderBcc
	partHeaderResent
	partUnqualified
	partAmbiguous
	partGenerated
	partBody
	partsAll = 1<<iota - 1
)

// partsParsed need the address fields parsed; partsHeader need the header at all.
const (
	partsParsed = partHeaderFrom | partHeaderSender | partHeaderReplyTo | partHeaderTo | partHeaderCc | partHeaderBcc |
		partHeaderResent | partUnqualified | partAmbiguous
	partsHeader   = partsParsed | partHeaders | partHeader
	partsEnvelope = partFrom | partTo | partRecipientCount
	partsMessage  = partsHeader | partSize | partGenerated | partBody
)

// partPaths are the paths of the parts in input.
func partPaths() map[parts]string {
	return map[parts]string{
		partServer: "server", partClient: "client", partTLS: "tls", partAuth: "auth",
		partFrom: "envelope.from", partTo: "envelope.to", partRecipientCount: "envelope.recipient_count", partRecipient: "recipient",
		partSize: "message.size", partHeaders: "message.headers", partHeader: "message.header",
		partHeaderFrom: "message.from", partHeaderSender: "message.sender", partHeaderReplyTo: "message.reply_to",
		partHeaderTo: "message.to", partHeaderCc: "message.cc", partHeaderBcc: "message.bcc",
		partHeaderResent: "message.resent", partUnqualified: "message.unqualified",
		partAmbiguous: "message.ambiguous", partGenerated: "message.generated", partBody: "message.body",
	}
}

// readBy says which parts the rules read, and all the rules and functions that they can reach, and which fields of
// message.header.
func readBy(c *ast.Compiler, rules []*ast.Rule) (parts, *fieldSet) {
	var read parts
	paths := partPaths()
	named, any := map[string]bool{}, false
	for _, r := range reachable(c, rules) {
		inputRefs(r, func(path []string) {
			part := matching(paths, path)
			read |= part
			switch {
			case part&partHeader == 0:
			case len(path) > 2:
				named[path[2]] = true
			default:
				any = true
			}
		})
	}
	if any {
		return read, nil
	}
	return read, newFieldSet(slices.Sorted(maps.Keys(named)))
}

// reachable is the closure of rules under the compiler's graph of dependencies, which over-approximates dynamic
// references.
func reachable(c *ast.Compiler, rules []*ast.Rule) []*ast.Rule {
	seen := map[*ast.Rule]bool{}
	var out []*ast.Rule
	todo := append([]*ast.Rule(nil), rules...)
	for len(todo) > 0 {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[r] {
			continue
		}
		seen[r] = true
		out = append(out, r)
		for dep := range c.Graph.Dependencies(r) {
			if rule, ok := dep.(*ast.Rule); ok {
				todo = append(todo, rule)
			}
		}
		if r.Else != nil {
			todo = append(todo, r.Else)
		}
	}
	return out
}

// inputRefs calls f with the path of every reference into input, cut where it stops being constant: input.a[x].b
// comes as ["a"], and input alone as nothing at all.
func inputRefs(r *ast.Rule, f func(path []string)) {
	var visit func(any) bool
	visit = func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			if x.HasPrefix(ast.InputRootRef) {
				f(constantPath(x[1:]))
			}
			for _, t := range x[1:] {
				ast.NewGenericVisitor(visit).Walk(t)
			}
			return true
		case ast.Var:
			if x == ast.InputRootDocument.Value {
				f(nil)
			}
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(r)
}

// constantPath is the longest run of string elements at the start of a reference.
func constantPath(ref ast.Ref) []string {
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

// matching are the parts at, above or below a path.
func matching(paths map[parts]string, path []string) parts {
	have := strings.Join(path, ".") + "."
	if len(path) == 0 {
		return partsAll
	}
	var out parts
	for part, p := range paths {
		p += "."
		if strings.HasPrefix(p, have) || strings.HasPrefix(have, p) {
			out |= part
		}
	}
	return out
}
