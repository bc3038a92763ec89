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
	// Source is the source as it was configured, or the path of a data document.
	Source string
	// File is the file within the source, slash-separated; "" when the source itself is at fault.
	File string
	// Line and Column start at 1; 0: not known.
	Line, Column int
	// Text is the line at fault, cut to 200 bytes; "" when not known.
	Text string
	// Message says what is wrong.
	Message string
	// Hint says how to mend it; "" when the message says so.
	Hint string
	// Err is the cause, for errors.Is; may be nil.
	Err error
	// about is a text in the file. The fault is placed where the text is found.
	about string
	// More holds further faults that were found in the same candidate, at most nine.
	More []*LoadError
}

// Error returns one line with place, message and hint.
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

// Place returns source/file:line:column, which editors and terminals understand.
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

// fault returns a LoadError without a source. A caller that knows the source adds it with from.
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

// at sets the place to a line and column of content, and Text to that line.
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

// from adds the source to an error of any type.
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

// join returns the first fault with the others in More; nil when there are none.
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

// lineOf returns one line of content, without its end, cut to 200 bytes.
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

// Stage is the step at which a candidate was refused.
type Stage string

// The stages, in order. Those from compile on belong to the gate.
const (
	StageRead      Stage = "read"      // the source cannot be reached, or is incomplete
	StageSignature Stage = "signature" // no trusted key signed it
	StageLoad      Stage = "load"      // a file in it cannot be parsed
	StageCompile   Stage = "compile"   // it does not compile
	StageLint      Stage = "lint"      // it breaks the contract, or would fail open
	StageTest      Stage = "test"      // one of its own tests fails
	StageSmoke     Stage = "smoke"     // it does not decide a simple transaction in time
)

func stages() []Stage {
	return []Stage{StageRead, StageSignature, StageLoad, StageCompile, StageLint, StageTest, StageSmoke}
}

// Refusal says at which stage a candidate was refused, and why.
type Refusal struct {
	Stage Stage
	Err   error
}

// Error returns the text of the reason.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }

// refusal returns err as a Refusal. stage is used where err is not one already.
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

// quoted returns a key for a message, quoted and cut to 100 bytes.
func quoted(key string) string {
	const most = 100
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "..."
	}
	out, _ := json.Marshal(key)
	return string(out)
}
