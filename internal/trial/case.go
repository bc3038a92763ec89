package trial

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Case is a message test or a golden transaction. It is one txtar file with the sections session, envelope, message.eml and want. It may have
// data.yaml (one more data document), policy/... (a bundle to use instead of the one under test) and want.eml (the exact bytes that are
// sent). docs/reference/message-tests.md has the format.
type Case struct {
	Name        string
	Transaction Transaction
	Data        []byte
	DataLine    int // where Data begins in the file
	Policy      map[string][]byte
	Want        string
	WantMessage []byte // nil if the bytes do not matter

	wants    []want
	archive  *txtar.Archive
	lines    []string
	findings yamldoc.Findings
}

// CaseTime is the time of the decision in a case that names none: 2026-06-01T12:00:00Z.
var CaseTime = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// caseID is the transaction id in a case that names none.
const caseID = "golden"

// section is one part of a case, with the line where its text begins.
type section struct {
	name string
	data []byte
	line int
}

// ParseCase reads a case. name is the name of its file in errors. These are yamldoc.Findings with everything that is wrong in the case, with
// line, column and how to mend it.
func ParseCase(name string, text []byte) (*Case, error) {
	c := &Case{Name: name, archive: txtar.Parse(text), Policy: map[string][]byte{},
		lines: strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")}
	c.Transaction.Now, c.Transaction.ID = CaseTime, caseID
	readers := map[string]func(section){
		"session": c.session, "envelope": c.envelope, "want": c.want,
		"message.eml": func(s section) { c.Transaction.Message = CRLF(s.data) },
		"data.yaml":   func(s section) { c.Data, c.DataLine = s.data, s.line },
		"want.eml":    func(s section) { c.WantMessage = CRLF(s.data) },
	}
	line, seen := 1+bytes.Count(c.archive.Comment, []byte("\n")), map[string]int{}
	for _, f := range c.archive.Files {
		s := section{f.Name, f.Data, line + 1}
		read := readers[f.Name]
		file, policy := strings.CutPrefix(f.Name, "policy/")
		switch {
		case seen[f.Name] > 0:
			c.find(line, 1, fmt.Sprintf("section %s stands here a second time", f.Name), fmt.Sprintf("keep one of the two; the first is in line %d", seen[f.Name]))
		case policy:
			c.Policy[file] = f.Data
		case read == nil:
			c.find(line, 1, fmt.Sprintf("unknown section %q", f.Name), near(f.Name, append(slices.Sorted(maps.Keys(readers)), "policy/FILE")))
		default:
			read(s)
		}
		seen[f.Name] = line
		line = s.line + bytes.Count(f.Data, []byte("\n"))
	}
	c.whole(seen)
	if err := c.findings.Sorted().Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// whole checks that the sections make one transaction, and sets its last stage.
func (c *Case) whole(seen map[string]int) {
	tx := &c.Transaction
	if len(c.archive.Files) == 0 {
		c.find(1, 1, "there is no section in it", "begin one with a line like -- session --")
	}
	_, broken := seen["envelope"]
	broken = broken && len(c.findings) > 0
	switch at := seen["message.eml"]; {
	case broken:
	case seen["envelope"] == 0:
		tx.Last = engine.StageConnect
		if at > 0 {
			c.find(at, 1, "a message without an envelope", "add a section envelope with MAIL FROM:<...> and RCPT TO:<...>")
		}
	case len(tx.To) == 0:
		tx.Last = engine.StageMail
		if at > 0 {
			c.find(at, 1, "a message without a recipient", "add a line RCPT TO:<...> to the envelope, or take message.eml out")
		}
	case at == 0:
		tx.Last = engine.StageRcpt
	}
	if at := seen["want.eml"]; at > 0 && len(c.WantMessage) == 0 {
		c.find(at, 1, "want.eml is empty", "put the message there as it should leave, or take the section out")
	}
}

// Wants reports whether the case says what it wants.
func (c *Case) Wants() bool { return len(c.wants) > 0 || c.WantMessage != nil }

// find adds a finding about a line of the file.
func (c *Case) find(line, column int, problem, mend string) {
	f := yamldoc.Finding{File: c.Name, Line: line, Column: column, Problem: problem, Mend: mend}
	if line >= 1 && line <= len(c.lines) {
		f.Source = cut(c.lines[line-1], 160)
	}
	c.findings = append(c.findings, f)
}

// near returns how to mend a word that is not known.
func near(word string, known []string) string {
	if n := yamldoc.Nearest(word, known); n != "" {
		return fmt.Sprintf("did you mean %s?", n)
	}
	return "there are " + strings.Join(known, ", ")
}

func cut(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// each calls read for every line of a section that is neither empty nor a comment. column is where the text of the line begins.
func (s section) each(read func(line, column int, text string)) {
	for i, raw := range strings.Split(strings.TrimSuffix(string(s.data), "\n"), "\n") {
		text := strings.TrimSpace(raw)
		if text != "" && !strings.HasPrefix(text, "#") {
			read(s.line+i, 1+strings.Index(raw, text), text)
		}
	}
}

// envelope reads the section envelope: MAIL and RCPT commands as a client sends them.
func (c *Case) envelope(s section) {
	tx := &c.Transaction
	mail := 0
	s.each(func(line, column int, text string) {
		verb, rest, ok := strings.Cut(text, ":")
		verb = strings.ToUpper(strings.Join(strings.Fields(verb), " "))
		switch {
		case !ok || verb != "MAIL FROM" && verb != "RCPT TO":
			c.find(line, column, "this is no command of an envelope", "write MAIL FROM:<address> or RCPT TO:<address>, each with its parameters")
			return
		case verb == "MAIL FROM" && mail > 0:
			c.find(line, column, "a second MAIL FROM", fmt.Sprintf("a case is one transaction; the first is in line %d", mail))
			return
		case verb == "RCPT TO" && mail == 0:
			c.find(line, column, "RCPT TO before MAIL FROM", "begin with MAIL FROM:<address>; <> is the null sender")
			mail = line // said once
			return
		}
		p, params, err := ParsePath(strings.TrimSpace(rest))
		if err != nil {
			c.find(line, column+len(text)-len(rest), err.Error(), "write "+verb+":<local@domain> KEYWORD=VALUE")
			return
		}
		if verb == "MAIL FROM" {
			tx.From, tx.Params, mail = p, params, line
			return
		}
		tx.To = append(tx.To, engine.Recipient{Path: p, Params: params})
	})
	if mail == 0 && len(c.findings) == 0 {
		c.find(s.line-1, 1, "the envelope is empty", "write MAIL FROM:<address> and RCPT TO:<address>, or take the section out")
	}
}

// ParsePath reads "<path> KEY=VALUE ...". An address without parameters needs no brackets.
func ParsePath(s string) (message.Path, message.Params, error) {
	if !strings.HasPrefix(s, "<") {
		addr, params, _ := strings.Cut(s, " ")
		s = "<" + addr + "> " + params
	}
	p, rest, err := message.ParsePath(s, true)
	if err != nil {
		return p, nil, err
	}
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return p, nil, fmt.Errorf("%q follows the address without a space", rest)
	}
	params := message.Params{}
	for _, f := range strings.Fields(rest) {
		k, v, _ := strings.Cut(f, "=")
		if k = strings.ToUpper(k); k == "" || strings.Trim(k, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return p, nil, fmt.Errorf("%q is no parameter (KEYWORD=VALUE)", f)
		}
		if _, twice := params[k]; twice {
			return p, nil, fmt.Errorf("parameter %s stands there twice", k)
		}
		params[k] = v
	}
	return p, params, nil
}

// CRLF returns text with CRLF line ends. A text that has any CR is returned unchanged.
func CRLF(b []byte) []byte {
	if bytes.IndexByte(b, '\r') >= 0 {
		return b
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}
