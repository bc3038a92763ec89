// Package explain finds decisions in decision logs and explains which rules fired, for `postern explain`.
//
// It starts no goroutines.
package explain

import (
	"context"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/replay"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
)

// Report is what `postern explain --json` prints.
type Report struct {
	ID        string     `json:"id"`
	Decisions []Decision `json:"decisions"`
	Cut       bool       `json:"cut,omitempty"` // the log has more decisions
}

// Decision is one decision of the log with its explanation.
type Decision struct {
	File       string          `json:"file"`
	DecisionID string          `json:"decision_id"`
	ID         string          `json:"id"`
	Time       string          `json:"timestamp"`
	Stage      string          `json:"stage"`
	Login      string          `json:"login,omitempty"`
	From       string          `json:"from,omitempty"`
	Logged     *replay.Outcome `json:"logged,omitempty"` // absent where the log masks it
	Revision   string          `json:"revision"`         // of the policy that decided
	Bundle     string          `json:"bundle_revision"`  // of the policy that explains
	Matches    bool            `json:"revision_matches"`
	Same       bool            `json:"same_outcome"` // the policy that explains decides as the log says
	Now        *replay.Outcome `json:"now,omitempty"`
	// Problem says why there is no explanation, or why it may not apply to the logged decision.
	Problem     string              `json:"problem,omitempty"`
	Explanation *engine.Explanation `json:"explanation,omitempty"`
}

// Explain explains by p the decisions that were found, as far as the log and p allow. Decisions without an explanation have a Problem.
func (s *Search) Explain(ctx context.Context, p *engine.Policy) *Report {
	r := &Report{ID: s.id, Cut: s.Cut}
	for _, h := range s.hits {
		r.Decisions = append(r.Decisions, explain(ctx, p, s.parser, h))
	}
	return r
}

// explain explains one line of the log.
func explain(ctx context.Context, p *engine.Policy, parser *decisionlog.Parser, h hit) Decision {
	l := h.line
	x := Decision{File: h.file, DecisionID: l.DecisionID, ID: l.ID, Time: l.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"), Stage: l.Stage.String(),
		Login: l.Login, From: l.From, Revision: l.Revision, Bundle: p.Revision(), Matches: l.Revision == p.Revision()}
	if !l.ResultMasked() {
		logged := replay.LoggedOutcome(l)
		x.Logged = &logged
	}
	question, err := parser.Logged(l)
	if err != nil {
		x.Problem = err.Error()
		return x
	}
	if lacks := p.Lacks(question); len(lacks) > 0 {
		x.Problem = "this bundle reads " + strings.Join(lacks, ", ") + ", which is not in the log"
		if l.Shortened != nil {
			x.Problem = "this bundle reads " + strings.Join(lacks, ", ") + ", of which the log has only a part: " + l.Shortened.String()
		}
		if !x.Matches {
			x.Problem += "; give the bundle that decided, revision " + l.Revision
		}
		return x
	}
	ctx, cancel := context.WithTimeout(ctx, gate.OfflineTimeout)
	defer cancel()
	if x.Explanation, err = p.Explain(ctx, question); err != nil {
		x.Problem = err.Error()
		return x
	}
	now := replay.OutcomeOf(&x.Explanation.Decision)
	x.Now = &now
	x.Same = x.Logged == nil || replay.Same(x.Logged, x.Now)
	switch {
	case l.Shortened != nil && x.Logged == nil:
		x.Problem = "the logged result cannot be compared: " + l.Shortened.String()
	case !x.Matches:
		x.Problem = fmt.Sprintf("revision %s decided, but this explains revision %s; give the old bundle with --bundle", l.Revision, p.Revision())
	case !x.Same:
		x.Problem = "this bundle has the same revision but decides differently; its files were changed without a new revision, or the decision in the log ran out of time"
	}
	return x
}
