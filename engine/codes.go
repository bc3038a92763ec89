package engine

import (
	"slices"
	"strings"
)

// Rule is one kind of finding. docs/reference/check.md has a section for each.
type Rule struct {
	Code     string
	Severity Severity
	// Ignorable says that a comment can silence it for a line: it is about what a rule means, which its author may know
	// better. What the compiler or the contract refuses cannot be silenced, because it would fail later.
	Ignorable bool
	About     string
}

// Codes of our own findings. Those of OPA's compiler begin with rego_.
const (
	codeLoad           = "load"
	codePolicy         = "policy"
	codeSmoke          = "smoke"
	codeUnknownBuiltin = "unknown-builtin"
	codeNoStage        = "no-stage"
	codeEmptyStage     = "empty-stage"
	codeUnknownStage   = "unknown-stage"
	codeUnknownSet     = "unknown-set"
	codeOtherStage     = "set-of-other-stage"
	codeNotASet        = "not-a-set"
	codeElementType    = "element-type"
	codeUnknownKey     = "unknown-key"
	codeMissingKey     = "missing-key"
	codeUnknownOp      = "unknown-op"
	codeBadValue       = "bad-value"
	codeMissingRule    = "missing-rule"
	codeReachesOut     = "test-reaches-out"
	codeMissingData    = "missing-data"
	codeTable          = "table-read-whole"
	codeLargeTable     = "large-table-read-whole"
	codeUnknownFact    = "unknown-fact"
	codeStageFact      = "fact-of-other-stage"
	codeNegatedCall    = "negated-call"
	codeNeedsFact      = "needs-fact"
	codeNeverEmpty     = "never-empty"
	codeDoorFact       = "fact-unknown-at-door"
	codeBadIgnore      = "bad-ignore"
	codeUnusedIgnore   = "unused-ignore"
)

// Rules are all kinds of findings, sorted by code.
func Rules() []Rule {
	rules := []Rule{
		{"rego_parse_error", Fault, false, "The file is no Rego."},
		{"rego_compile_error", Fault, false, "OPA's compiler refuses the rule, or its strict mode does."},
		{"rego_type_error", Fault, false, "A name that does not exist, or values that do not fit together."},
		{"rego_unsafe_var_error", Fault, false, "A variable that nothing gives a value."},
		{"rego_recursion_error", Fault, false, "A rule that depends on itself."},
		{codeLoad, Fault, false, "A file of the bundle cannot be read."},
		{codePolicy, Fault, false, "OPA cannot prepare the decision."},
		{codeSmoke, Fault, false, "A stage fails on a plain message."},
		{codeUnknownBuiltin, Fault, false, "policy.allow_builtins names a builtin that OPA does not have."},
		{codeNoStage, Fault, false, "The bundle has no package that would be asked."},
		{codeEmptyStage, Fault, false, "A stage's package has no decision set."},
		{codeUnknownStage, Fault, false, "A package that looks like a stage and is none."},
		{codeUnknownSet, Fault, false, "A rule of a stage that is no decision set."},
		{codeOtherStage, Fault, false, "A decision set that this stage does not have."},
		{codeNotASet, Fault, false, "A decision set that is not written with contains."},
		{codeElementType, Fault, false, "An element, or a value in it, of the wrong type."},
		{codeUnknownKey, Fault, false, "An element with a key that means nothing."},
		{codeMissingKey, Fault, false, "An element without a key that it needs."},
		{codeUnknownOp, Fault, false, "An edit with an operation that does not exist."},
		{codeBadValue, Fault, false, "A code, status, header name, value or address that cannot be."},
		{codeMissingRule, Fault, false, "A reference to a rule or package that does not exist."},
		{codeReachesOut, Fault, false, "A test that would reach out of the process: to the network or into its environment."},
		{codeMissingData, Warning, true, "A reference to data that is in no document."},
		{codeTable, Warning, true, "A table of data that is read whole, and may grow too large for that."},
		{codeLargeTable, Fault, false, "A table of data that is read whole, and is too large for that."},
		{codeUnknownFact, Fault, false, "A fact that does not exist, set by with or read from a variable."},
		{codeStageFact, Warning, true, "A fact that is never known at the stage that reads it."},
		{codeNegatedCall, Fault, true, "not over a call with a reference in it: it fails open."},
		{codeNeedsFact, Warning, true, "A refusal that can only fire where a fact is present."},
		{codeNeverEmpty, Warning, true, `A fact compared with "": it would be absent.`},
		{codeDoorFact, Warning, true, "A fact that a front end in use cannot know."},
		{codeBadIgnore, Fault, false, "A postern:ignore comment that cannot be followed."},
		{codeUnusedIgnore, Warning, false, "A postern:ignore comment with nothing to silence."},
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Code, b.Code) })
	return rules
}

// ruleOf a code; a code that OPA may add is a Fault that cannot be ignored.
func ruleOf(code string) (Rule, bool) {
	for _, r := range Rules() {
		if r.Code == code {
			return r, true
		}
	}
	return Rule{Code: code, Severity: Fault}, false
}
