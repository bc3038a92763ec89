package contract

import (
	"slices"
	"strings"
)

// Rule is one kind of finding. docs/reference/check.md has a section for each.
type Rule struct {
	Code     string
	Severity Severity
	// Ignorable says that a comment can silence the finding for a line. It is then about what a rule means, which its author may know
	// better. A finding about what the compiler or the contract refuses cannot be silenced, because the policy would fail later.
	Ignorable bool
	About     string
}

// Codes of the findings that are not from OPA's compiler, whose codes begin with rego_.
const (
	CodeLoad           = "load"
	CodePolicy         = "policy"
	CodeSmoke          = "smoke"
	CodeSlow           = "slow"
	CodeUnknownBuiltin = "unknown-builtin"
	CodeNoStage        = "no-stage"
	CodeEmptyStage     = "empty-stage"
	CodeUnknownStage   = "unknown-stage"
	CodeUnknownSet     = "unknown-set"
	CodeOtherStage     = "set-of-other-stage"
	CodeNotASet        = "not-a-set"
	CodeElementType    = "element-type"
	CodeUnknownKey     = "unknown-key"
	CodeMissingKey     = "missing-key"
	CodeUnknownOp      = "unknown-op"
	CodeBadValue       = "bad-value"
	CodeMissingRule    = "missing-rule"
	CodeReachesOut     = "test-reaches-out"
	CodeMissingData    = "missing-data"
	CodeTable          = "table-read-whole"
	CodeLargeTable     = "large-table-read-whole"
	CodeUnknownFact    = "unknown-fact"
	CodeStageFact      = "fact-of-other-stage"
	CodeNegatedCall    = "negated-call"
	CodeNeedsFact      = "needs-fact"
	CodeNeverEmpty     = "never-empty"
	CodeDoorFact       = "fact-unknown-at-door"
	CodeBadIgnore      = "bad-ignore"
	CodeUnusedIgnore   = "unused-ignore"
)

// Rules returns all kinds of findings, sorted by code.
func Rules() []Rule {
	rules := []Rule{
		{"rego_parse_error", Fault, false, "The file is not valid Rego."},
		{"rego_compile_error", Fault, false, "OPA's compiler or its strict mode refuses the rule."},
		{"rego_type_error", Fault, false, "A name that does not exist, or values that do not fit together."},
		{"rego_unsafe_var_error", Fault, false, "A variable that nothing gives a value."},
		{"rego_recursion_error", Fault, false, "A rule that depends on itself."},
		{CodeLoad, Fault, false, "A file of the bundle cannot be read."},
		{CodePolicy, Fault, false, "OPA cannot prepare the decision."},
		{CodeSmoke, Fault, false, "A stage fails for a plain message."},
		{CodeSlow, Warning, false, "A stage comes near its time-out for a plain or a large message."},
		{CodeUnknownBuiltin, Fault, false, "policy.allow_builtins names a builtin that OPA does not have."},
		{CodeNoStage, Fault, false, "The bundle defines no stage."},
		{CodeEmptyStage, Fault, false, "A stage's package has no decision set."},
		{CodeUnknownStage, Fault, false, "A package that looks like a stage and is not one."},
		{CodeUnknownSet, Fault, false, "A rule of a stage that is not a decision set."},
		{CodeOtherStage, Fault, false, "A decision set that this stage does not have."},
		{CodeNotASet, Fault, false, "A decision set that is not written with contains."},
		{CodeElementType, Fault, false, "An element, or a value in it, of the wrong type."},
		{CodeUnknownKey, Fault, false, "An element with an unknown key."},
		{CodeMissingKey, Fault, false, "An element without a key that it needs."},
		{CodeUnknownOp, Fault, false, "An edit with an operation that does not exist."},
		{CodeBadValue, Fault, false, "An invalid code, status, header name, value or address."},
		{CodeMissingRule, Fault, false, "A reference to a rule or package that does not exist."},
		{CodeReachesOut, Fault, false, "A test that would use the network or read the environment of the process."},
		{CodeMissingData, Warning, true, "A reference to data that is in no document."},
		{CodeTable, Warning, true, "A table of data that is read whole, and could grow too large for that."},
		{CodeLargeTable, Fault, false, "A table of data that is read whole, and is too large for that."},
		{CodeUnknownFact, Fault, false, "A fact that does not exist, set by with or read from a variable."},
		{CodeStageFact, Warning, true, "A fact that is never known at the stage that reads it."},
		{CodeNegatedCall, Fault, true, "not over a call with a reference in it, which fails open."},
		{CodeNeedsFact, Warning, true, "A refusal that can fire only if a fact is present."},
		{CodeNeverEmpty, Warning, true, `A fact compared with "", although it would be absent.`},
		{CodeDoorFact, Warning, true, "A fact that a front end in use cannot know."},
		{CodeBadIgnore, Fault, false, "A postern:ignore comment that is wrong."},
		{CodeUnusedIgnore, Warning, false, "A postern:ignore comment that silences nothing."},
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Code, b.Code) })
	return rules
}

// RuleOf returns the rule of a code. A code that is not known, such as one that a later OPA adds, is a Fault that cannot be ignored.
func RuleOf(code string) (Rule, bool) {
	for _, r := range Rules() {
		if r.Code == code {
			return r, true
		}
	}
	return Rule{Code: code, Severity: Fault}, false
}
