package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/internal/table"
)

// maxErrors bounds how many faults of one candidate are reported.
const maxErrors = 10

// LoadError says why a bundle or a data document could not be loaded, and where.
type LoadError struct {
	// Source as it was configured; for a data document its path.
	Source string
	// File within the source, slash-separated; "" when the source itself is at fault.
	File string
	// Line and Column start at 1; 0: not known.
	Line, Column int
	// Text of the line at fault, cut to 200 octets; "" when not known.
	Text string
	// Message says what is wrong.
	Message string
	// Hint says how to mend it; "" when the message says it all.
	Hint string
	// Err is the cause, for errors.Is; may be nil.
	Err error
	// about is a text of the file at which the fault is.
	about string
	// More holds further faults that were found in the same candidate, at most nine.
	More []*LoadError
}

// Error is one line: place, message and hint.
func (e *LoadError) Error() string {
	var b strings.Builder
	b.WriteString(e.Place())
	b.WriteString(": ")
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (")
		b.WriteString(e.Hint)
		b.WriteString(")")
	}
	switch n := len(e.More); {
	case n == 1:
		b.WriteString("; and one more error")
	case n > 1:
		fmt.Fprintf(&b, "; and %d more errors", n)
	}
	return b.String()
}

// Place is where the fault is, as an editor or a terminal understands it: source/file:line:column.
func (e *LoadError) Place() string {
	place := e.Source
	if e.File != "" {
		if place != "" {
			place = strings.TrimSuffix(place, "/") + "/"
		}
		place += e.File
	}
	if e.Line > 0 {
		place += fmt.Sprintf(":%d", e.Line)
		if e.Column > 0 {
			place += fmt.Sprintf(":%d", e.Column)
		}
	}
	return place
}

// Unwrap returns the cause.
func (e *LoadError) Unwrap() error { return e.Err }

// fault is a LoadError without a source; whoever knows the source fills it in.
func fault(file, format string, args ...any) *LoadError {
	return &LoadError{File: file, Message: fmt.Sprintf(format, args...)}
}

func (e *LoadError) hint(format string, args ...any) *LoadError {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

func (e *LoadError) found(text string) *LoadError {
	e.about = text
	return e
}

func (e *LoadError) because(err error) *LoadError {
	e.Err = err
	return e
}

// at sets the place to a line and column of content, and keeps the line's text.
func (e *LoadError) at(content []byte, line, column int) *LoadError {
	e.Line, e.Column = line, column
	e.Text = lineOf(content, line)
	return e
}

// atOffset sets the place to an offset in content.
func (e *LoadError) atOffset(content []byte, offset int) *LoadError {
	offset = min(max(offset, 0), len(content))
	before := content[:offset]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return e.at(content, line, column)
}

// from names the source of an error, whatever its type.
func from(source string, err error) error {
	if err == nil {
		return nil
	}
	var load *LoadError
	if !errors.As(err, &load) {
		return &LoadError{Source: source, Message: err.Error(), Err: err}
	}
	if load.Source == "" {
		load.Source = source
	}
	for _, more := range load.More {
		if more.Source == "" {
			more.Source = source
		}
	}
	return load
}

// join makes one error of several faults, in the order given; nil when there are none.
func join(faults []*LoadError) error {
	if len(faults) == 0 {
		return nil
	}
	first := faults[0]
	if rest := faults[1:]; len(rest) > 0 {
		first.More = append(first.More, rest[:min(len(rest), maxErrors-1)]...)
	}
	return first
}

// parseFaults turns the errors of OPA's parser into faults.
func parseFaults(file string, content []byte, err error) []*LoadError {
	var list ast.Errors
	var single *ast.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &single):
		list = ast.Errors{single}
	default:
		return []*LoadError{fault(file, "%v", err).because(err)}
	}
	faults := make([]*LoadError, 0, len(list))
	for _, one := range list {
		f := fault(file, "%s: %s", one.Code, one.Message).because(one)
		switch {
		case one.Message == "empty module":
			f.Message = "is empty"
			f.hint("begin it with: package NAME").at(content, 1, 1)
		case one.Location != nil && one.Location.Col > 0:
			f.at(content, one.Location.Row, one.Location.Col)
		default: // OPA is behind the end
			f.atOffset(content, len(bytes.TrimRight(content, " \t\r\n")))
		}
		faults = append(faults, f)
	}
	return faults
}

// lineOf returns one line of content, without its end, cut to 200 octets.
func lineOf(content []byte, line int) string {
	for ; line > 1; line-- {
		end := bytes.IndexByte(content, '\n')
		if end < 0 {
			return ""
		}
		content = content[end+1:]
	}
	if end := bytes.IndexByte(content, '\n'); end >= 0 {
		content = content[:end]
	}
	const most = 200
	content = bytes.TrimRight(content[:min(len(content), most)], "\r")
	return strings.ToValidUTF8(string(content), "\uFFFD")
}

// Stage is where a candidate was refused.
type Stage string

// The stages, in their order. The gate answers for those from compile on.
const (
	StageRead      Stage = "read"      // the source cannot be reached, or is not whole
	StageSignature Stage = "signature" // nobody we trust signed what is there
	StageLoad      Stage = "load"      // a file in it cannot be parsed
	StageCompile   Stage = "compile"   // the compiler refuses it
	StageLint      Stage = "lint"      // it breaks the contract, or would fail open
	StageTest      Stage = "test"      // a test of its own fails
	StageSmoke     Stage = "smoke"     // it does not decide a plain transaction in time
)

func stages() []Stage {
	return []Stage{StageRead, StageSignature, StageLoad, StageCompile, StageLint, StageTest, StageSmoke}
}

// Refusal says at which stage a candidate was refused, and why.
type Refusal struct {
	Stage Stage
	Err   error
}

// Error is the reason's.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }

// refusal of any error; stage where the error does not say.
func refusal(err error, stage Stage) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{stage, err}
}

// notAdded words why an object did not take a member.
func notAdded(f *LoadError, key string, err error) *LoadError {
	if errors.Is(err, table.ErrTwice) {
		f.Message = "the key " + quoted(key) + " is there twice"
		return f.hint("remove one of them")
	}
	return f.because(err)
}

// quoted is a key as messages show it, cut to a sensible length.
func quoted(key string) string {
	const most = 100
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "..."
	}
	out, _ := json.Marshal(key)
	return string(out)
}
