package contract

import "github.com/open-policy-agent/opa/v1/ast"

// Stage is a point in the SMTP dialogue at which policy is asked. The zero value is no stage; a decision at it is Defer.
type Stage uint8

// The stages, in the order of a transaction.
const (
	StageConnect Stage = 1 + iota // a client has connected: package postern.connect
	StageMail                     // MAIL FROM: package postern.mail
	StageRcpt                     // one RCPT TO: package postern.rcpt
	StageMessage                  // the header has ended, or the whole message: package postern.message
)

// Stages returns all stages in order.
func Stages() []Stage { return []Stage{StageConnect, StageMail, StageRcpt, StageMessage} }

// String returns the name of the stage in package names, input.stage and logs; "none" for the zero Stage.
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

// ParseStage returns the stage of that name, or the zero Stage if there is none.
func ParseStage(name string) Stage {
	for _, s := range Stages() {
		if s.String() == name {
			return s
		}
	}
	return 0
}

// Package returns the package of the stage as a reference: data.postern.<stage>.
func (s Stage) Package() ast.Ref {
	return ast.Ref{ast.DefaultRootDocument, ast.StringTerm("postern"), ast.StringTerm(s.String())}
}

// StageOf returns the stage whose package pkg is; ok is false for any other package.
func StageOf(pkg *ast.Package) (s Stage, ok bool) {
	for _, s := range Stages() {
		if pkg.Path.Equal(s.Package()) {
			return s, true
		}
	}
	return 0, false
}

// SetNames returns the decision sets that a stage may define, in the order of precedence.
func SetNames(s Stage) []string {
	if s == StageMessage {
		return []string{"reject", "defer", "quarantine", "discard", "allow", "edit", "note"}
	}
	return []string{"reject", "defer", "allow", "note"}
}
