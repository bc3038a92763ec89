package decisionlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
)

// Line is one decision read back from a log.
type Line struct {
	DecisionID string
	Time       time.Time
	ID         string // of the transaction
	Stage      engine.Stage
	Door       string
	Client     string
	Login      string
	From       string // "" too where there was no envelope
	Revision   string
	Error      string   // why the failure verdict was taken; "" otherwise
	Result     *Result  // nil: it was masked
	Gone       []string // JSON pointers of what was erased, masked or left out of a shortened line
	// Shortened is what the line lacks because it would have been too long; nil if it is whole.
	Shortened *Shortened

	input    []byte // JSON
	parts    []string
	smtputf8 bool
	onError  string
}

// Shortened counts what was left out of a line.
type Shortened struct {
	Elements int `json:"elements"` // of lists and objects
	Octets   int `json:"octets"`   // of strings
	Fields   []struct {
		Path     string `json:"path"` // JSON pointer of the list, object or string; or of what has it
		Elements int    `json:"elements"`
		Octets   int    `json:"octets"`
	} `json:"fields"`
}

// String returns what was left out in words.
func (s *Shortened) String() string {
	return fmt.Sprintf("the line was shortened by %d elements and %d octets (decision_log.max_line)", s.Elements, s.Octets)
}

// Result is the logged decision.
type Result struct {
	Verdict string         `json:"verdict"`
	Reply   *Reply         `json:"reply"`
	Rules   []Rule         `json:"rules"`
	Edits   []Edit         `json:"edits"`
	Notes   jsontext.Value `json:"notes"`
}

// Reply is what the client was told.
type Reply struct {
	Code   int      `json:"code"`
	Status string   `json:"status"`
	Lines  []string `json:"lines"`
}

// Rule is one element of a decision set that fired.
type Rule struct {
	Set     string `json:"set"`
	Rule    string `json:"rule"`
	Code    int    `json:"code"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// Edit is a change to the message.
type Edit struct {
	Op      string `json:"op"`
	Name    string `json:"name"`
	Index   int    `json:"index"`
	Value   string `json:"value"`
	Address string `json:"address"`
}

// Parser parses lines. It is safe for concurrent use.
type Parser struct{ inputs *engine.InputReader }

// NewParser returns a Parser.
func NewParser() *Parser { return &Parser{inputs: engine.NewInputReader()} }

// Parse reads one line strictly: each known field must have its type and must not occur twice. Unknown fields are ignored. The
// Line refers to text, which must not be changed afterwards.
func (p *Parser) Parse(text []byte) (*Line, error) {
	raw, err := members(text)
	if err != nil {
		return nil, err
	}
	l := &Line{input: raw["input"]}
	if bytes.Equal(l.input, []byte("null")) {
		l.input = nil
	}
	var stage, path string
	var fault struct{ Code, Message string }
	var erased, masked []string
	for _, field := range []struct {
		name string
		to   any
	}{
		{"decision_id", &l.DecisionID}, {"timestamp", &l.Time}, {"id", &l.ID}, {"stage", &stage}, {"path", &path},
		{"door", &l.Door}, {"client", &l.Client}, {"login", &l.Login}, {"from", &l.From}, {"revision", &l.Revision},
		{"error", &fault}, {"result", &l.Result}, {"erased", &erased}, {"masked", &masked}, {"parts", &l.parts},
		{"smtputf8", &l.smtputf8}, {"on_error", &l.onError}, {"shortened", &l.Shortened},
	} {
		if value := raw[field.name]; value != nil {
			if err := json.Unmarshal(value, field.to); err != nil {
				return nil, fmt.Errorf("%s: %w", field.name, err)
			}
		}
	}
	if l.Stage = contract.ParseStage(stage); stage == "" {
		l.Stage = contract.ParseStage(strings.TrimPrefix(path, "postern/"))
	}
	if fault.Code != "" {
		l.Error = fault.Code
	}
	l.Gone = append(erased, masked...)
	if l.Shortened != nil {
		for _, f := range l.Shortened.Fields {
			l.Gone = append(l.Gone, f.Path)
		}
	}
	return l, l.check()
}

// check that the line has what every line of Postern has.
func (l *Line) check() error {
	switch {
	case l.Stage == 0:
		return errors.New("this is not a decision of Postern: it has no stage")
	case l.ID == "":
		return errors.New("this is not a decision of Postern: it has no transaction id")
	case l.Result == nil && !l.gone("/result"):
		return errors.New("this is not a decision of Postern: it has no result")
	case l.Result != nil && !knownVerdict(l.Result.Verdict):
		return fmt.Errorf("result: unknown verdict %.40q", l.Result.Verdict)
	case l.Shortened != nil && len(l.Shortened.Fields) == 0:
		return errors.New("shortened: it does not say which fields")
	case l.onError != "" && !knownVerdict(l.onError):
		return fmt.Errorf("on_error: unknown verdict %.40q", l.onError)
	}
	return nil
}

// verdict returns the verdict with that name.
func verdict(name string) (engine.Verdict, bool) {
	for _, v := range []engine.Verdict{engine.Accept, engine.Reject, engine.Defer, engine.Quarantine, engine.Discard} {
		if v.String() == name {
			return v, true
		}
	}
	return engine.Defer, false
}

func knownVerdict(name string) bool { _, ok := verdict(name); return ok }

// gone reports whether something at or below a JSON pointer was masked or erased.
func (l *Line) gone(pointer string) bool {
	for _, g := range l.Gone {
		if g == pointer || strings.HasPrefix(g, pointer+"/") || strings.HasPrefix(pointer, g+"/") {
			return true
		}
	}
	return false
}

// ResultMasked reports whether masking or shortening changed the logged result. Notes and the messages of rules do not count, because the
// reply has the text that the client was sent.
func (l *Line) ResultMasked() bool {
	if l.Result == nil {
		return true
	}
	for _, g := range l.Gone {
		rest, ok := strings.CutPrefix(g, "/result")
		if ok && !strings.HasPrefix(rest, "/notes") && !(strings.HasPrefix(rest, "/rules/") && strings.HasSuffix(rest, "/message")) {
			return true
		}
	}
	return false
}

// ErrNoInput is what Logged returns for a line without an input.
var ErrNoInput = errors.New("the line has no input")

// Logged returns the transaction of the line, to be decided again. The error is about its input.
func (p *Parser) Logged(l *Line) (*engine.Logged, error) {
	if l.input == nil {
		return nil, ErrNoInput
	}
	in, err := p.inputs.Read(l.input)
	if err != nil {
		return nil, err
	}
	if s := in.Stage(); s != l.Stage {
		return nil, fmt.Errorf("the line is of stage %s, but its input is of stage %s", l.Stage, s)
	}
	q := engine.NewLogged(l.Stage, in, l.parts, l.Gone)
	q.UTF8 = l.smtputf8
	q.Failure, _ = verdict(l.onError)
	return q, nil
}

// members splits an object into its members; none may occur twice. The decoder refuses text that is not UTF-8.
func members(text []byte) (map[string]jsontext.Value, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(text))
	if dec.PeekKind() != '{' {
		return nil, errors.New("the line is not a JSON object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	out := make(map[string]jsontext.Value, 24)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, syntax(err)
		}
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, syntax(err)
		}
		out[key] = bytes.Clone(value)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, syntax(err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return out, nil
}

// syntax returns an error of the decoder in plain words.
func syntax(err error) error {
	var e *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return errors.New("the JSON ends in the middle")
	case errors.As(err, &e):
		return fmt.Errorf("column %d: %s: %w", e.ByteOffset+1, e.JSONPointer, e.Err)
	}
	return err
}
