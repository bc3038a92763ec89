package replay

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/yamldoc"
)

// FuzzApprovals: a list of approvals approves a change only where each of its patterns, read as a regular expression, matches, and
// none approves everything; what is wrong with a list is said with its place.
func FuzzApprovals(f *testing.F) {
	for _, s := range []string{
		"approve:\n  - {rule: \"a.*\", login: alice}\n", "approve:\n  - {kind: stricter, stage: mail}\n  - id: \"*1\"\n", "approve:\n  - {why: because}\n", "approve: []\n", "approve:\n  - {rule: \"*\"}\n", "approve: {rule: a}\n", "approve:\n  - {rule: \"\", from: \"a*b*a\"}\n", "approv:\n", "approve:\n  - {from: \"a**\\u00fc*\"}\n",
	} {
		f.Add(s, "a.b", "t1", "alice", "aba")
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, rule, id, login, from string) {
		if len(text) > 2048 {
			return
		}
		path := filepath.Join(dir, "approvals.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		as, err := ReadApprovals(path)
		if err != nil {
			var found yamldoc.Findings
			if !errors.As(err, &found) || len(found) == 0 || strings.ContainsAny(err.Error(), "\r\x1b") {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for _, c := range []*Change{{Kind: Kinds()[0], Stage: "mail", Rule: rule, ID: id, Login: login, From: from}, {Kind: Kinds()[0], Stage: "mail", Rule: "other", ID: "", Login: "", From: from}} {
			want := false
			for _, a := range as {
				if a.Kind+a.Rule+a.ID+a.Login+a.From == "" {
					t.Fatalf("%q approves everything", text)
				}
				want = want || (a.Kind == "" || a.Kind == c.Kind) && (a.Stage == "" || a.Stage == c.Stage) && matches(a.Rule, c.Rule) && matches(a.ID, c.ID) && matches(a.Login, c.Login) && matches(a.From, c.From)
			}
			if got := as.approve(c); got != want {
				t.Fatalf("%q and %+v: %v, want %v", text, c, got, want)
			}
		}
	})
}

// matches reads a pattern in another way.
func matches(pattern, s string) bool {
	re := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `(?s:.*)`)
	return pattern == "" || regexp.MustCompile(`\A(?:`+re+`)\z`).MatchString(s)
}
