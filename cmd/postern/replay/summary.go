package replay

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/engine"
)

// Bounds of a summary, for logs of any length.
const (
	maxGroups   = 1000
	maxBad      = 20
	maxRevision = 20
	otherRules  = "(other rules)"
)

// Change is one difference between an old decision and the new one.
type Change struct {
	File       string    `json:"file"`
	Line       int       `json:"line"`
	ID         string    `json:"id"`
	DecisionID string    `json:"decision_id,omitempty"`
	Time       time.Time `json:"timestamp"`
	Stage      string    `json:"stage"`
	Login      string    `json:"login,omitempty"`
	From       string    `json:"from,omitempty"`
	Kind       string    `json:"kind"`
	Rule       string    `json:"rule"`
	Approved   bool      `json:"approved"`
	Was        *Outcome  `json:"was,omitempty"` // absent for kind unknown
	Now        *Outcome  `json:"now,omitempty"`
}

// Group counts the changes of one kind at one stage by one rule.
type Group struct {
	Kind     string   `json:"kind"`
	Stage    string   `json:"stage"`
	Rule     string   `json:"rule"`
	Count    int      `json:"count"`
	Approved int      `json:"approved"`
	Examples []Change `json:"examples"` // the first in the log; changes that are not approved come first
}

// Bad is a line that cannot be read.
type Bad struct {
	File  string `json:"file"`
	Line  int    `json:"line"`
	Error string `json:"error"`
}

// Summary is the result of a replay.
type Summary struct {
	New      string   `json:"new"` // revision
	Old      string   `json:"old"` // revision, or "the log"
	Logged   []string `json:"logged_revisions"`
	Records  int      `json:"records"`  // lines that could be read
	Left     int      `json:"left_out"` // by a filter
	Replayed int      `json:"replayed"`
	Same     int      `json:"same"`
	Changed  int      `json:"changed"` // records with a change
	Unknown  int      `json:"unknown"` // records that cannot be replayed
	// Unapproved counts records that are unknown or have a change, without an approval.
	Unapproved int     `json:"unapproved"`
	BadLines   int     `json:"bad_lines"`
	Bad        []Bad   `json:"bad"` // the first of them
	Groups     []Group `json:"changes"`
	Unused     []Bad   `json:"unused_approvals"` // entries that approved nothing
	// Unseen are stages at which the new policy decides but the log has no decision, so that nothing is known about them.
	Unseen []string `json:"unseen_stages"`

	examples int
	index    map[[3]string]int
	approve  Approvals
	stages   [engine.StageMessage + 1]bool // with a decision in the log
}

func newSummary(o *Options) *Summary {
	s := &Summary{New: o.New.Revision(), Old: "the log", Logged: []string{}, Bad: []Bad{}, Groups: []Group{}, Unused: []Bad{}, Unseen: []string{},
		examples: cmp.Or(o.Examples, 3), index: map[[3]string]int{}, approve: o.Approvals}
	if o.Old != nil {
		s.Old = o.Old.Revision()
	}
	return s
}

// bad adds a line that cannot be read.
func (s *Summary) bad(b Bad) {
	s.BadLines++
	if len(s.Bad) < maxBad {
		s.Bad = append(s.Bad, b)
	}
}

// record adds the result of one line.
func (s *Summary) record(r *result) {
	s.Records++
	if !slices.Contains(s.Logged, r.revision) && len(s.Logged) < maxRevision {
		s.Logged = append(s.Logged, r.revision)
	}
	if r.leftOut {
		s.Left++
		return
	}
	s.stages[r.stage] = true
	changed, unapproved := false, false
	for i := range r.changes {
		c := &r.changes[i]
		c.Approved = c.Kind == Rules || s.approve.approve(c)
		unapproved = unapproved || !c.Approved
		changed = changed || c.Kind != Rules
		s.group(c)
	}
	if unapproved {
		s.Unapproved++
	}
	switch {
	case r.unknown:
		s.Unknown++
		return
	case changed:
		s.Changed++
	default:
		s.Same++
	}
	s.Replayed++
}

// group adds a change to its group.
func (s *Summary) group(c *Change) {
	key := [3]string{c.Kind, c.Stage, c.Rule}
	at, ok := s.index[key]
	if !ok && len(s.Groups) >= maxGroups {
		key[2] = otherRules
		at, ok = s.index[key]
	}
	if !ok {
		at = len(s.Groups)
		s.index[key] = at
		s.Groups = append(s.Groups, Group{Kind: key[0], Stage: key[1], Rule: key[2], Examples: []Change{}})
	}
	g := &s.Groups[at]
	g.Count++
	example := *c
	example.Was, example.Now = c.Was.brief(), c.Now.brief()
	if c.Approved {
		g.Approved++
	}
	switch {
	case len(g.Examples) < s.examples:
		g.Examples = append(g.Examples, example)
	case !c.Approved: // it replaces the last approved example
		for i := len(g.Examples) - 1; i >= 0; i-- {
			if g.Examples[i].Approved {
				g.Examples = append(slices.Delete(g.Examples, i, i+1), example)
				break
			}
		}
	}
}

// finish sorts everything, and adds what can be known only at the end.
func (s *Summary) finish(o *Options) {
	for stage := engine.StageConnect; stage <= engine.StageMessage; stage++ {
		if o.New.Asks(stage) && !s.stages[stage] && (len(o.Stages) == 0 || slices.Contains(o.Stages, stage)) {
			s.Unseen = append(s.Unseen, stage.String())
		}
	}
	slices.Sort(s.Logged)
	order := append(Kinds(), Rules)
	slices.SortFunc(s.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(b.Count, a.Count),
			strings.Compare(a.Stage, b.Stage), strings.Compare(a.Rule, b.Rule))
	})
	for _, g := range s.Groups {
		slices.SortStableFunc(g.Examples, func(a, b Change) int {
			switch {
			case a.Approved == b.Approved:
				return 0
			case b.Approved:
				return -1
			}
			return 1
		})
	}
	for _, a := range s.approve {
		if a.Used == 0 {
			s.Unused = append(s.Unused, Bad{o.ApprovalsFile, a.Line, "this entry approved nothing"})
		}
	}
}
