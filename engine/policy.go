package engine

import (
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
	"github.com/postern-mail/postern/engine/lint"
)

// Policy is a compiled bundle, code and data. It does not change, and any number of goroutines may decide by it.
type Policy struct {
	compiler *ast.Compiler
	data     *data.Store
	stages   [StageMessage + 1]*stage // by Stage; nil: the bundle does not define it
	needs    Needs                    // own and those of the shadow candidate
	own      Needs
	revision string
	codeHash string // of the modules
	warnings []contract.Finding

	timeout time.Duration
	full    bool // Options.FullInput
	named   bool // Options.NamedFields
	reads   lint.TableReads
	keys    *keys
	workers *workerPool
	values  cache.InterQueryValueCache // compiled regular expressions and globs
	tracer  topdown.QueryTracer        // nil except in tests; see Traced

	constantRules []constantRule
	constants     *refTable[ruleValue] // values of constantRules; nil: none

	// The shadow candidate decides the same transactions without effect; see Engine.SwapShadow.
	shadow      *Policy
	shadowParts [StageMessage + 1]contract.Parts // that shadow reads
	bothFields  [StageMessage + 1]*fieldSet      // of message.header that either reads
}

// stage is a prepared package of the bundle.
type stage struct {
	name  string
	sets  []string
	query ast.Body
	qc    ast.QueryCompiler
	reads contract.Parts // that the rules read
	build contract.Parts // that are built: the same, or more for the decision log
	parts []string       // names of build

	fields, buildFields *fieldSet // of message.header, as far as it is in reads and build
	// builtins in addition to OPA's, in tests only: stock tools would not have them.
	builtins map[string]*topdown.Builtin
}

// constantRule is a rule that depends on data alone, with the query for its value; see evaluateConstants.
type constantRule struct {
	ref   ast.Ref
	stage stage // only query and name are set
}

// Needs says which costly facts a policy reads at the message stage, so that a front end can leave out the others.
type Needs struct {
	Connect, Mail, Rcpt, Message bool // the bundle defines the stage's package
	Header                       bool // any fact of the header
	Size                         bool // input.message.size
	Body                         bool // input.message.body
	// Edits names the edit operations that the rules can produce, as far as it can be told before evaluation; all of them if it
	// cannot.
	Edits []string
	// Quarantine and Discard say whether these sets are defined.
	Quarantine, Discard bool
}

// union returns what n or o needs.
func (n Needs) union(o Needs) Needs {
	edits := append(slices.Clone(n.Edits), o.Edits...)
	slices.Sort(edits)
	return Needs{
		Connect: n.Connect || o.Connect, Mail: n.Mail || o.Mail, Rcpt: n.Rcpt || o.Rcpt, Message: n.Message || o.Message,
		Header: n.Header || o.Header, Size: n.Size || o.Size, Body: n.Body || o.Body,
		Edits: slices.Compact(edits), Quarantine: n.Quarantine || o.Quarantine, Discard: n.Discard || o.Discard,
	}
}

// Needs returns what the policy and its shadow candidate need.
func (p *Policy) Needs() Needs {
	n := p.needs
	n.Edits = slices.Clone(n.Edits)
	return n
}

// OwnNeeds returns what the policy needs without its shadow candidate. A decision fails without these facts.
func (p *Policy) OwnNeeds() Needs {
	n := p.own
	n.Edits = slices.Clone(n.Edits)
	return n
}

// missingFacts reports whether t lacks facts that p reads. A front end leaves out facts that no policy needed when the transaction
// began.
func (p *Policy) missingFacts(t *Transaction) bool {
	if t.Stage != StageMessage || p.stages[StageMessage] == nil {
		return false
	}
	m, n := t.Message, p.own
	return m == nil || n.Header && m.Header == nil || n.Size && m.Size < 0 || n.Body && m.Body == nil
}

// Revision returns the revision of the bundle's manifest, or a hash of the content if it names none.
func (p *Policy) Revision() string { return p.revision }

// Warnings returns the findings of Check that did not stop the bundle.
func (p *Policy) Warnings() []contract.Finding { return slices.Clone(p.warnings) }

// Asks reports whether the bundle defines the stage.
func (p *Policy) Asks(s Stage) bool { return p.stageOf(s) != nil }

// stageOf returns the stage, or nil if the bundle does not define it.
func (p *Policy) stageOf(s Stage) *stage {
	if s < StageConnect || s > StageMessage {
		return nil
	}
	return p.stages[s]
}

// skips reports whether the bundle does not define a stage that there is.
func (p *Policy) skips(s Stage) bool {
	return s >= StageConnect && s <= StageMessage && p.stages[s] == nil
}

// Traced returns the same policy with every evaluation reported to tracer, which several goroutines may call at once. Tests use it
// to measure which rules they reach. It is slow.
func (p *Policy) Traced(tracer topdown.QueryTracer) *Policy {
	out := *p
	out.tracer, out.constants = tracer, nil // the evaluator does not enter a rule whose value is known
	return &out
}

// withShadow returns p with a shadow candidate, or with none if shadow is nil. It decides as p does, on an input with the facts that
// either of the two reads.
func (p *Policy) withShadow(shadow *Policy) *Policy {
	if p == nil || p.shadow == shadow {
		return p
	}
	out := *p
	out.shadow, out.needs = shadow, p.own
	out.shadowParts, out.bothFields = [StageMessage + 1]contract.Parts{}, [StageMessage + 1]*fieldSet{}
	if shadow == nil {
		return &out
	}
	facts := shadow.own // what it decides is never carried out
	facts.Edits, facts.Quarantine, facts.Discard = nil, false, false
	out.needs = p.own.union(facts)
	for s, st := range shadow.stages {
		if st == nil {
			continue
		}
		out.shadowParts[s], out.bothFields[s] = st.reads, st.buildFields
		if own := p.stages[s]; own != nil {
			out.bothFields[s] = own.buildFields.union(st.buildFields)
		}
	}
	return &out
}
