package smtpd

import (
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
)

// FuzzParams: accepted parameters of MAIL and RCPT are exactly the words of the command, each once, and match the grammar of
// their RFC, written here as regular expressions. A refusal is permanent and has one line.
func FuzzParams(f *testing.F) {
	for _, s := range []string{
		" SIZE=1000 BODY=8BITMIME SMTPUTF8", " SIZE=99999999999999999999", " SIZE=+1", " size=1 SIZE=1", " RET=hdrs ENVID=QQ314159", " ENVID=a+20b+7F", " AUTH=<>", " AUTH=a+2Bb@c.example", " AUTH=+3C+3E",
		" NOTIFY=SUCCESS,FAILURE,DELAY", " NOTIFY=NEVER,DELAY", " NOTIFY=DELAY,delay", " ORCPT=rfc822;a+40b", " ORCPT=utf-8;\u00e9@b", " ORCPT=rfc822;", " ORCPT=;a", " BODY=BINARYMIME", " X-A=1", "SIZE=1", " \tSIZE=1",
		" SIZE=1\u00a0RET=FULL", " SMTPUTF8=", " SMTPUTF8=1", " ENVID=" + strings.Repeat("x", 101), " ORCPT=rfc822;" + strings.Repeat("+41", 200), " " + strings.Repeat("A", 33), "  ", " =", " RET",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, known := range []string{mailParams, rcptParams} {
			p, r := readParams(s, known)
			_, utf8 := p["SMTPUTF8"]
			if r.IsZero() && known == mailParams {
				r = checkMailParams(p, 1<<30)
			} else if r.IsZero() {
				utf8 = true
				r = checkRcptParams(p, utf8)
			}
			for range 4 { // the same reply each time, although the order of a map changes
				if again := checkMailParams(p, 1<<30); known == mailParams && p != nil && !r.IsZero() && again.String() != r.String() && !again.IsZero() {
					t.Errorf("%q is answered %q, and then %q", s, r, again)
				}
			}
			if !r.IsZero() {
				if c := r.Code(); c != 501 && c != 504 && c != 552 && c != 555 || strings.Count(string(r.AppendTo(nil)), "\n") != 1 {
					t.Errorf("%q is answered %q", s, r.AppendTo(nil))
				}
				continue
			}
			wantParams(t, s, p, utf8)
		}
	})
}

var paramForms = func() map[string]*regexp.Regexp {
	const xtext = `(?:[!-*,-<>-~]|\+[0-9A-F]{2})+`
	out := map[string]*regexp.Regexp{}
	for key, form := range map[string]string{
		"SIZE": `[0-9]{1,20}`, "BODY": `(?i:7BIT|8BITMIME)`, "SMTPUTF8": ``, "RET": `(?i:FULL|HDRS)`, "ENVID": xtext, "AUTH": xtext,
		"NOTIFY": `(?i:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})`, "ORCPT": `[A-Za-z0-9][A-Za-z0-9-]*;(?:` + xtext + `|[^\x00-\x20\x7f=]+)`,
	} {
		out[key] = regexp.MustCompile(`^(?:` + form + `)\z`)
	}
	return out
}()

// wantParams compares the parameters with the words of the command.
func wantParams(t *testing.T, s string, p message.Params, utf8 bool) {
	t.Helper()
	words := 0
	for _, word := range strings.Split(s, " ") {
		if word == "" {
			continue
		}
		words++
		key, value, has := strings.Cut(word, "=")
		key = strings.ToUpper(key)
		got, there := p[key]
		form := paramForms[key]
		if !there || got != value || has != (key != "SMTPUTF8") || form == nil || !form.MatchString(value) {
			t.Errorf("%q: %s is read as %q (%v)", s, word, got, there)
		}
		if eightBit(value) && !(key == "ORCPT" && strings.EqualFold(value[:min(len(value), 6)], "utf-8;") && utf8) && !(key == "AUTH" && utf8) {
			t.Errorf("%q: 8-bit in %s", s, word)
		}
	}
	if words != len(p) {
		t.Errorf("%q: %d words, %d parameters", s, words, len(p))
	}
}
