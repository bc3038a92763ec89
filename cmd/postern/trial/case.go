package trial

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// Case is a golden transaction: one txtar file with the sections session, envelope, message.eml and want, and where they
// matter data.yaml (the data document), policy/... (a bundle in place of the default one) and want.eml (the exact bytes
// that leave, Received apart; DATE and MESSAGE-ID stand for the generated values).
type Case struct {
	Name        string
	Transaction Transaction
	Data        []byte
	Policy      map[string][]byte
	Want        string
	WantMessage []byte
	archive     *txtar.Archive
}

// CaseTime is the time at which golden transactions are decided: 2026-06-01T12:00:00Z.
var CaseTime = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// ParseCase reads a case. Errors name the section and the line in it.
func ParseCase(name string, text []byte) (*Case, error) {
	a := txtar.Parse(text)
	c := &Case{Name: name, archive: a, Policy: map[string][]byte{}}
	c.Transaction.Now, c.Transaction.ID = CaseTime, "golden"
	for _, f := range a.Files {
		var err error
		switch {
		case f.Name == "session":
			err = lines(f.Data, c.session)
		case f.Name == "envelope":
			err = lines(f.Data, c.envelope)
		case f.Name == "message.eml":
			c.Transaction.Message = CRLF(f.Data)
		case f.Name == "data.yaml":
			c.Data = f.Data
		case f.Name == "want":
			c.Want = string(f.Data)
		case f.Name == "want.eml":
			c.WantMessage = CRLF(f.Data)
		case strings.HasPrefix(f.Name, "policy/"):
			c.Policy[strings.TrimPrefix(f.Name, "policy/")] = f.Data
		default:
			err = fmt.Errorf("unknown section; there are session, envelope, message.eml, data.yaml, policy/FILE, want, want.eml")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: section %s: %w", name, f.Name, err)
		}
	}
	return c, nil
}

// Update returns the file with want and want.eml replaced by what came.
func (c *Case) Update(want string, msg []byte) []byte {
	files := c.archive.Files[:0:0]
	for _, f := range c.archive.Files {
		if f.Name != "want" && f.Name != "want.eml" {
			files = append(files, f)
		}
	}
	files = append(files, txtar.File{Name: "want", Data: []byte(want)})
	if msg != nil {
		files = append(files, txtar.File{Name: "want.eml", Data: bytes.ReplaceAll(msg, []byte("\r\n"), []byte("\n"))})
	}
	return txtar.Format(&txtar.Archive{Comment: c.archive.Comment, Files: files})
}

func (c *Case) session(line string) error {
	key, value, _ := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	s := &c.Transaction.Session
	switch strings.TrimSpace(key) {
	case "login":
		s.Login = value
	case "client":
		var err error
		s.Client, err = netip.ParseAddr(value)
		return err
	case "ehlo":
		s.EHLO = value
	case "tls":
		s.TLS = value
	default:
		return fmt.Errorf("unknown key %q; there are login, client, ehlo, tls", key)
	}
	return nil
}

func (c *Case) envelope(line string) error {
	verb, rest, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("%q is neither MAIL FROM:<...> nor RCPT TO:<...>", line)
	}
	rest = strings.TrimSpace(rest)
	p, params, err := ParsePath(rest)
	if err != nil {
		return err
	}
	switch strings.ToUpper(verb) {
	case "MAIL FROM":
		c.Transaction.From, c.Transaction.Params = p, params
	case "RCPT TO":
		c.Transaction.To = append(c.Transaction.To, engine.Recipient{Path: p, Params: params})
	default:
		return fmt.Errorf("%q is neither MAIL FROM nor RCPT TO", verb)
	}
	return nil
}

// ParsePath reads "<path> KEY=VALUE ...", brackets optional for a bare address.
func ParsePath(s string) (message.Path, message.Params, error) {
	if !strings.HasPrefix(s, "<") {
		addr, params, _ := strings.Cut(s, " ")
		s = "<" + addr + "> " + params
	}
	p, rest, err := message.ParsePath(s, true)
	if err != nil {
		return p, nil, err
	}
	params := message.Params{}
	for _, f := range strings.Fields(rest) {
		k, v, _ := strings.Cut(f, "=")
		params[strings.ToUpper(k)] = v
	}
	return p, params, nil
}

// Describe writes a result as the want section has it: one line a fact, in a fixed order.
func (r *Result) Describe() string {
	var b strings.Builder
	d := r.Final
	fmt.Fprintf(&b, "verdict: %s\nstage: %s\n", d.Verdict, d.Stage)
	if !d.Reply.IsZero() {
		fmt.Fprintf(&b, "reply: %s\n", d.Reply)
	}
	for _, x := range d.Reasons {
		fmt.Fprintf(&b, "%s: %s\n", x.Set, x.Rule)
	}
	for _, s := range r.Steps {
		if s.Decision.Stage == engine.StageRcpt && s.Decision.Verdict != engine.Accept {
			fmt.Fprintf(&b, "refused: %s: %s\n", s.Command, s.Decision.Reply)
		}
	}
	if r.After != nil {
		fmt.Fprintf(&b, "from: %s\n", r.Envelope.From)
		for _, to := range r.Envelope.To {
			fmt.Fprintf(&b, "to: %s\n", to.Path)
		}
	}
	return b.String()
}

// CRLF gives text with LF line ends those of a message; text that has any CR is left as it is.
func CRLF(b []byte) []byte {
	if bytes.IndexByte(b, '\r') >= 0 {
		return b
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

func lines(data []byte, each func(string) error) error {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return sc.Err()
}
