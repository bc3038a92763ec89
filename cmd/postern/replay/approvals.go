package replay

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Bounds of an approval list.
const (
	maxApprovalFile = 4 << 20
	maxApprovals    = 10_000
	maxPattern      = 1024
)

// Approval allows the changes that match all of its keys; an empty key matches everything. In Rule, ID, Login and From a * stands for any text.
type Approval struct {
	Kind, Stage, Rule, ID, Login, From string
	Why                                string // for people
	Line                               int    // in the file
	Used                               int    // how many changes it approved; Run counts them
}

// Approvals is a list of them. The first that matches a change approves it.
type Approvals []*Approval

// ReadApprovals reads an approval list. Unknown keys are errors. The error is yamldoc.Findings.
func ReadApprovals(file string) (Approvals, error) {
	doc, err := yamldoc.ReadFile(file, maxApprovalFile)
	if err != nil {
		return nil, err
	}
	var out Approvals
	doc.Root().Map(yamldoc.Keys{"approve": func(n yamldoc.Node) {
		n.List(false, func(i int, n yamldoc.Node) {
			if i == maxApprovals {
				n.Fail(fmt.Sprintf("the list has more than %d entries", maxApprovals), "use * in rule, login or from")
			}
			if i < maxApprovals {
				out = append(out, readApproval(n))
			}
		})
	}})
	return out, doc.Findings().Err()
}

func readApproval(n yamldoc.Node) *Approval {
	a := &Approval{Line: n.Pos().Line}
	text := func(to *string) func(yamldoc.Node) {
		return func(n yamldoc.Node) { *to, _ = n.Text(maxPattern) }
	}
	choice := func(to *string, words ...string) func(yamldoc.Node) {
		return func(n yamldoc.Node) { *to, _ = n.Choice(words...) }
	}
	stages := []string{}
	for s := engine.StageConnect; s <= engine.StageMessage; s++ {
		stages = append(stages, s.String())
	}
	if n.Map(yamldoc.Keys{
		"kind": choice(&a.Kind, Kinds()...), "stage": choice(&a.Stage, stages...), "rule": text(&a.Rule), "id": text(&a.ID),
		"login": text(&a.Login), "from": text(&a.From), "why": text(&a.Why),
	}) && a.Kind+a.Rule+a.ID+a.Login+a.From == "" {
		n.Fail("approves everything", "say which changes by kind, rule, id, login or from")
	}
	return a
}

// approve reports whether a change is on the list.
func (as Approvals) approve(c *Change) bool {
	for _, a := range as {
		if (a.Kind == "" || a.Kind == c.Kind) && (a.Stage == "" || a.Stage == c.Stage) && like(a.Rule, c.Rule) &&
			like(a.ID, c.ID) && like(a.Login, c.Login) && like(a.From, c.From) {
			a.Used++
			return true
		}
	}
	return false
}

// like reports whether s matches a pattern, in which * stands for any text. An empty pattern matches everything.
func like(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	pieces := strings.Split(pattern, "*")
	if len(pieces) == 1 {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, pieces[0])
	last := pieces[len(pieces)-1]
	if !ok || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[:len(s)-len(last)]
	for _, p := range pieces[1 : len(pieces)-1] {
		_, rest, found := strings.Cut(s, p)
		if !found {
			return false
		}
		s = rest
	}
	return true
}

// WriteApprovals writes a list that approves all changes of a summary. People should read it before they use it.
func WriteApprovals(w io.Writer, s *Summary) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# What revision %s decides differently from %s.\n# Read this list before you use it, and remove what should not happen.\napprove:\n", s.New, s.Old)
	for _, g := range s.Groups {
		if g.Kind == Rules {
			continue
		}
		if g.Rule == otherRules {
			fmt.Fprintf(&b, "  # %d more %s at stage %s, by too many rules to list them\n", g.Count, g.Kind, g.Stage)
			continue
		}
		rule, err := json.Marshal(g.Rule) // a JSON string is also a YAML string
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "  - {kind: %s, stage: %s, rule: %s} # %d\n", g.Kind, g.Stage, rule, g.Count)
	}
	if len(s.Groups) == 0 {
		b.WriteString("  []\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
