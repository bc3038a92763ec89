package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/topdown/cache"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
	"github.com/postern-mail/postern/engine/lint"
)

// DefaultTimeout bounds one evaluation where Options.Timeout is zero.
const DefaultTimeout = time.Second

// Options of Compile. The zero value is the strict default.
type Options struct {
	// Timeout bounds one evaluation, from when it begins; 0: DefaultTimeout.
	Timeout time.Duration
	// AllowBuiltins names builtins that policies may call although the default capabilities withhold them.
	AllowBuiltins []string
	// Revision is used if the bundle's manifest names none; "": a hash of the content.
	Revision string
	// FullInput builds every part of the input but the body, whether rules read it or not. A logged input can then be decided by
	// other policies too. Every decision pays for building these parts.
	FullInput bool
	// NamedFields builds only those fields of message.header that rules look up, if all their names are known. Set it where no
	// input is kept: a logged header is complete, so that it can be decided by policies that look up other fields.
	NamedFields bool
	// Doors are the front ends that the bundle is for, named as in input.server.door. Check warns of facts that one of them never knows.
	Doors []string
	// Tests has Check look at the modules whose file name ends in _test.rego too.
	Tests bool
}

// Compile makes a Policy of a bundle. It compiles strictly against the input schema and the allowed capabilities, lints, finds
// which parts of the input each stage reads, prepares the queries, and decides a plain and a large transaction a stage. Errors about the
// bundle are *contract.CompileError with file, line and column. Modules whose file name ends in _test.rego are no part of the
// Policy. The Policy takes ownership of b.Data, which must not change afterwards.
func Compile(ctx context.Context, b *bundle.Bundle, o Options) (*Policy, error) {
	p, checked, findings := newPolicy(b, o)
	if err := contract.Faults(findings); err != nil {
		return nil, err
	}
	p.evaluateConstants(ctx)
	slow, err := p.smoke(ctx)
	if err != nil {
		return nil, contract.Faults(checked.Quote(asFindings(err)))
	}
	p.warnings = append(findings, checked.Quote(slow)...) // no Fault is among them
	return p, nil
}

// Check returns everything that is wrong with a bundle, faults and warnings, in the order of files and lines. A bundle without
// a Fault compiles.
func Check(ctx context.Context, b *bundle.Bundle, o Options) []contract.Finding {
	p, checked, findings := newPolicy(b, o)
	if contract.Faults(findings) == nil {
		p.evaluateConstants(ctx)
		slow, err := p.smoke(ctx)
		if err != nil {
			slow = append(asFindings(err), slow...)
		}
		findings = append(findings, checked.Quote(slow)...)
	}
	return findings
}

// newPolicy does everything in Compile that evaluates nothing. The Policy is nil if OPA refuses a module, and must not be used
// if one of the findings is a Fault.
func newPolicy(b *bundle.Bundle, o Options) (*Policy, *lint.Bundle, []contract.Finding) {
	checked, findings := lint.Check(b, lint.Options{AllowBuiltins: o.AllowBuiltins, Doors: o.Doors, Tests: o.Tests})
	if checked == nil {
		return nil, nil, contract.Sort(findings)
	}
	p := &Policy{
		compiler: checked.Compiler,
		full:     o.FullInput,
		named:    o.NamedFields,
		data:     checked.Data,
		timeout:  cmp.Or(max(o.Timeout, 0), DefaultTimeout),
		revision: cmp.Or(b.Manifest.Revision, o.Revision),
		codeHash: checked.Hash,
		values:   newValueCache(),
		reads:    checked.Reads,
		keys:     newKeys(),
		workers:  &workerPool{seed: maphash.MakeSeed()},
	}
	if p.revision == "" {
		p.revision = contentHash(checked.Hash, b.Data)
	}
	if err := p.prepare(checked.EditOps); err != nil {
		findings = append(findings, asFindings(err)...)
	}
	return p, checked, contract.Sort(findings)
}

// prepare fills in the stages and needs. editOps are the edit operations that the rules can produce.
func (p *Policy) prepare(editOps []string) error {
	var all []*ast.Rule
	for _, s := range contract.Stages() {
		pkg := s.Package()
		st := &stage{name: s.String()}
		var body ast.Body
		var rules []*ast.Rule
		for _, set := range contract.SetNames(s) {
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
			continue // lint refuses a stage package without sets
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
			st.build, st.buildFields = st.build|contract.PartsAll&^contract.PartMessageBody, nil
		}
		st.parts = partNames(st.build&contract.StageParts(s), st.buildFields)
		p.stages[s] = st
		all = append(all, rules...)
	}
	p.constantRules = p.findConstantRules(all)
	p.setNeeds(editOps)
	return nil
}

// setNeeds derives the needs from the stages.
func (p *Policy) setNeeds(editOps []string) {
	n := &p.own
	defer func() { p.needs = p.own }()
	n.Connect, n.Mail = p.stages[StageConnect] != nil, p.stages[StageMail] != nil
	n.Rcpt, n.Message = p.stages[StageRcpt] != nil, p.stages[StageMessage] != nil
	m := p.stages[StageMessage]
	if m == nil {
		return
	}
	n.Header, n.Size, n.Body = m.build&partsHeader != 0, m.build&contract.PartMessageSize != 0, m.build&contract.PartMessageBody != 0
	n.Quarantine, n.Discard = slices.Contains(m.sets, "quarantine"), slices.Contains(m.sets, "discard")
	if slices.Contains(m.sets, "edit") {
		n.Edits = editOps
	}
}

// WithData returns a Policy with the same code and other data, of which it takes ownership. It neither parses nor compiles and
// takes less than a millisecond if large objects are packed, as package bundles does. revision "" stands for a hash of code
// and data, which costs as much as encoding the data. The error is a *contract.CompileError if a rule stands at a path that
// the data has, if an object that rules read whole has become too large for that, or if a plain transaction fails.
func (p *Policy) WithData(ctx context.Context, doc map[string]any, revision string) (*Policy, error) {
	out := *p
	out.data = data.New(doc)
	if err := contract.Faults(lint.PathConflicts(ctx, p.compiler, out.data)); err != nil {
		return nil, err
	}
	if err := contract.Faults(p.reads.Findings(out.data)); err != nil {
		return nil, err
	}
	out.revision = revision
	if revision == "" {
		out.revision = contentHash(p.codeHash, doc)
	}
	out.evaluateConstants(ctx)
	slow, err := out.smoke(ctx)
	if err != nil {
		return nil, err
	}
	old := func(f contract.Finding) bool { return f.Code == contract.CodeSlow }
	out.warnings = append(slices.DeleteFunc(slices.Clone(p.warnings), old), slow...)
	return &out, nil
}

// newValueCache makes the cache that keeps compiled patterns from one evaluation to the next. OPA's default keeps a hundred, so
// a policy with more of them would compile all of them for every message.
func newValueCache() cache.InterQueryValueCache {
	entries := 10_000
	return cache.NewInterQueryValueCache(context.Background(), &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{MaxNumEntries: &entries},
	})
}

// contentHash returns the revision of a bundle that names none: the first 16 hex digits of a hash of its modules and data.
func contentHash(code string, data map[string]any) string {
	h := sha256.New()
	h.Write([]byte(code))
	if err := json.NewEncoder(h).Encode(data); err != nil { // map keys come out sorted
		fmt.Fprintf(h, "%v", data)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// asFindings returns the findings of a *contract.CompileError, and one finding for any other error.
func asFindings(err error) []contract.Finding {
	if c, ok := err.(*contract.CompileError); ok {
		return c.Findings
	}
	return []contract.Finding{{Severity: contract.Fault, Code: contract.CodePolicy, Message: err.Error()}}
}
