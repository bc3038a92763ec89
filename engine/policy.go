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

// Policy is an immutable compiled snapshot of one bundle: code and data. Any number of goroutines may decide by it.
type Policy struct {
	compiler *ast.Compiler
	full     bool // Options.FullInput
	named    bool // Options.NamedFields
	data     *data.Store
	stages   [StageMessage + 1]*stage // by Stage; nil: the bundle does not define it
	needs    Needs                    // own, and those of the shadow candidate
	own      Needs
	timeout  time.Duration
	revision string
	code     string // hash of the modules
	warnings []contract.Finding
	values   cache.InterQueryValueCache // compiled regular expressions and globs
	tables   lint.TableReads            // what the rules read of data as a whole
	keys     *keys
	workers  *workerPool
	tracer   topdown.QueryTracer // nil but for tests: see Traced

	constantOf []constantRule
	constants  *refTable[ruled] // their values; nil: none are ready

	shadow *Policy                          // decides beside it, without effect; see Engine.SwapShadow
	also   [StageMessage + 1]contract.Parts // what shadow reads

	alsoFields [StageMessage + 1]*fieldSet // of message.header: what both read
}

// stage is one package of the contract, ready to be asked.
type stage struct {
	name  string
	sets  []string
	query ast.Body
	qc    ast.QueryCompiler
	reads contract.Parts // what the rules read
	build contract.Parts // what is built: the same, or more for the decision log
	parts []string       // names of build

	fields, buildFields *fieldSet // of message.header, where it is among reads and build
	// builtins beside OPA's own: none but in tests, because stock tools would not have them.
	builtins map[string]*topdown.Builtin
}

// Needs says which costly facts the snapshot reads at the message stage, so that a front end may skip them.
type Needs struct {
	Connect, Mail, Rcpt, Message bool // the bundle defines the stage's package
	Header                       bool // any header fact
	Size                         bool // input.message.size
	Body                         bool // input.message.body
	// Edits names the edit operations the bundle can produce, as far as it can be told statically; a bundle for which
	// that cannot be told names them all.
	Edits []string
	// Quarantine and Discard say whether the sets are defined.
	Quarantine, Discard bool
}

// OwnNeeds are the snapshot's without those of the shadow candidate beside it: what a decision cannot do without.
func (p *Policy) OwnNeeds() Needs {
	n := p.own
	n.Edits = slices.Clone(n.Edits)
	return n
}

// Needs of the snapshot, and of the shadow candidate beside it.
func (p *Policy) Needs() Needs {
	n := p.needs
	n.Edits = slices.Clone(n.Edits)
	return n
}

// and is what either needs.
func (n Needs) and(o Needs) Needs {
	edits := append(slices.Clone(n.Edits), o.Edits...)
	slices.Sort(edits)
	return Needs{
		Connect: n.Connect || o.Connect, Mail: n.Mail || o.Mail, Rcpt: n.Rcpt || o.Rcpt, Message: n.Message || o.Message,
		Header: n.Header || o.Header, Size: n.Size || o.Size, Body: n.Body || o.Body,
		Edits: slices.Compact(edits), Quarantine: n.Quarantine || o.Quarantine, Discard: n.Discard || o.Discard,
	}
}

// Revision of the snapshot: the manifest's, or a hash of the content.
func (p *Policy) Revision() string { return p.revision }

// Warnings are the findings of Check that did not stop the bundle.
func (p *Policy) Warnings() []contract.Finding { return slices.Clone(p.warnings) }

// Traced returns the same snapshot with every evaluation reported to tracer, which any number of goroutines may call: tests
// measure by it which rules they reach. It is slow; live traffic is decided without.
func (p *Policy) Traced(tracer topdown.QueryTracer) *Policy {
	out := *p
	out.tracer, out.constants = tracer, nil // see evaluateConstants
	return &out
}
