// Package lint compiles a bundle strictly and finds everything that is wrong with it, with file, line and column.
//
// Check is the way in. It reads the modules (source.go), compiles them and words what OPA's compiler says (compile.go), then looks
// at the modules as they were written: which names stand for what (scope.go), negations that fail open (negation.go), decision
// sets and their elements (sets.go), facts (facts.go), references (refs.go), data read as a whole (tables.go), the bundle's tests
// (tests.go). Comments silence findings at last (ignore.go). The codes of findings are in package contract.
//
// There are no goroutines here.
package lint
