package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// Policy is an immutable compiled snapshot of one bundle: code and data. Any number of goroutines may decide by it.
type Policy struct {
	compiler *ast.Compiler
	full     bool // Options.FullInput
	named    bool // Options.NamedFields
	data     *store
	stages   [StageMessage + 1]*stage // by Stage; nil: the bundle does not define it
	needs    Needs                    // own, and those of the shadow candidate
	own      Needs
	timeout  time.Duration
	revision string
	code     string // hash of the modules
	warnings []Finding
	values   cache.InterQueryValueCache // compiled regular expressions and globs
	tables   tableReads                 // what the rules read of data as a whole
	keys     *keys
	crew     *crew
	tracer   topdown.QueryTracer // nil but for tests: see Traced

	constantOf []constantRule
	constants  *refTable[ruled] // their values; nil: none are ready

	shadow *Policy                 // decides beside it, without effect; see Engine.SwapShadow
	also   [StageMessage + 1]parts // what shadow reads

	alsoFields [StageMessage + 1]*fieldSet // of message.header: what both read
}

// stage is one package of the contract, ready to be asked.
type stage struct {
	name  string
	sets  []string
	query ast.Body
	qc    ast.QueryCompiler
	reads parts    // what the rules read
	build parts    // what is built: the same, or more for the decision log
	parts []string // names of build

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
func (p *Policy) Warnings() []Finding { return slices.Clone(p.warnings) }

// WithData returns a snapshot with the same code and other data, which it takes ownership of: no parsing, no compiling,
// well below a millisecond for data whose large objects are packed, as package bundles yields it. revision "": a hash of
// code and data, which costs as much as encoding the data. Data at a path that the code defines as a rule is a
// *CompileError, and so is data in which an object that the code reads whole has become too large for that, and data by
// which a smoke transaction fails.
func (p *Policy) WithData(ctx context.Context, data map[string]any, revision string) (*Policy, error) {
	out := *p
	out.data = newStore(data)
	if conflicts := ast.CheckPathConflicts(p.compiler, storage.NonEmpty(ctx, out.data, nil)); len(conflicts) > 0 {
		return nil, faults((&sources{}).compilerFindings(conflicts))
	}
	if err := faults(p.tables.findings(out.data)); err != nil {
		return nil, err
	}
	out.revision = revision
	if revision == "" {
		out.revision = contentHash(p.code, data)
	}
	out.evaluateConstants(ctx)
	if err := out.smoke(ctx); err != nil {
		return nil, err
	}
	return &out, nil
}

// Traced returns the same snapshot with every evaluation reported to tracer, which any number of goroutines may call: tests
// measure by it which rules they reach. It is slow; live traffic is decided without.
func (p *Policy) Traced(tracer topdown.QueryTracer) *Policy {
	out := *p
	out.tracer, out.constants = tracer, nil // see evaluateConstants
	return &out
}

// newValueCache holds compiled patterns from one evaluation to the next. Without a bound of our own OPA keeps a hundred,
// and a policy with more compiles all of them all the time.
func newValueCache() cache.InterQueryValueCache {
	entries := 10_000
	return cache.NewInterQueryValueCache(context.Background(), &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &entries},
	})
}

// names of the stages in the contract, by Stage.
func (s Stage) String() string {
	switch s {
	case StageConnect:
		return "connect"
	case StageMail:
		return "mail"
	case StageRcpt:
		return "rcpt"
	case StageMessage:
		return "message"
	}
	return "none"
}

// allStages in order.
func allStages() []Stage { return []Stage{StageConnect, StageMail, StageRcpt, StageMessage} }

// setNames are the decision sets that a stage may define, in the order of precedence.
func setNames(s Stage) []string {
	if s == StageMessage {
		return []string{"reject", "defer", "quarantine", "discard", "allow", "edit", "note"}
	}
	return []string{"reject", "defer", "allow", "note"}
}

// prepare fills in stages and needs.
func (p *Policy) prepare(src *sources) error {
	var all []*ast.Rule
	for _, s := range allStages() {
		pkg := stagePackage(s)
		st := &stage{name: s.String()}
		var body ast.Body
		var rules []*ast.Rule
		for _, set := range setNames(s) {
			ref := pkg.Append(ast.StringTerm(set))
			found := p.compiler.GetRulesExact(ref)
			if len(found) == 0 {
				continue
			}
			rules = append(rules, found...)
			st.sets = append(st.sets, set)
			body.Append(ast.Equality.Expr(ast.VarTerm(set), ast.NewTerm(ref)))
		}
		if len(st.sets) == 0 {
			continue // lint has had its say if there is such a package
		}
		st.qc = p.compiler.QueryCompiler()
		compiled, err := st.qc.Compile(body)
		if err != nil {
			return fmt.Errorf("prepare stage %s: %w", s, err)
		}
		st.query = compiled
		st.reads, st.fields = readBy(p.compiler, rules)
		st.build = st.reads
		if p.named {
			st.buildFields = st.fields
		}
		if p.full {
			st.build, st.buildFields = st.build|partsAll&^partBody, nil
		}
		st.parts = partNames(st.build&stageParts(s), st.buildFields)
		p.stages[s] = st
		all = append(all, rules...)
	}
	p.constantOf = p.constantRules(all)
	p.setNeeds(src)
	return nil
}

// setNeeds sums up the stages.
func (p *Policy) setNeeds(src *sources) {
	n := &p.own
	defer func() { p.needs = p.own }()
	n.Connect, n.Mail = p.stages[StageConnect] != nil, p.stages[StageMail] != nil
	n.Rcpt, n.Message = p.stages[StageRcpt] != nil, p.stages[StageMessage] != nil
	m := p.stages[StageMessage]
	if m == nil {
		return
	}
	n.Header, n.Size, n.Body = m.build&partsHeader != 0, m.build&partSize != 0, m.build&partBody != 0
	n.Quarantine, n.Discard = slices.Contains(m.sets, "quarantine"), slices.Contains(m.sets, "discard")
	if slices.Contains(m.sets, "edit") {
		n.Edits = src.editOps()
	}
}

// stagePackage is data.postern.<stage>.
func stagePackage(s Stage) ast.Ref {
	return ast.Ref{ast.DefaultRootDocument, ast.StringTerm("postern"), ast.StringTerm(s.String())}
}
