package trial

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// FuzzCase: a case is one whole transaction whose addresses can be sent as they are, or everything that is wrong with it is said
// with its place; and a case that is written out again is the same case.
func FuzzCase(f *testing.F) {
	for _, pattern := range []string{"../../testdata/transactions/*.txtar"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files[:min(len(files), 12)] {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			if len(text) < 2048 {
				f.Add(text)
			}
		}
	}
	for _, s := range []string{
		"-- session --\nlogin: alice\nclient: 192.0.2.1\ntls: \"1.3\"\n-- envelope --\nMAIL FROM:<a@b.example> SIZE=1\nRCPT TO:<c@d.example>\n-- message.eml --\nFrom: a@b.example\n\nx\n-- want --\nverdict: accept\n",
		"-- envelope --\nRCPT TO:<a@b>\n", "-- want --\n-- want --\n", "-- nope --\n", "-- session --\nunknown: [auth.login]\nlogin: x\n", "x\n", "-- envelope --\nmail from:a@b\nRCPT  TO: <\"a b\"@c> NOTIFY=NEVER\n", "-- message.eml --\n\n", "-- want.eml --\n", "-- policy/a.rego --\npackage a\n-- data.yaml --\na: 1\n-- want --\nverdict: reject\n",
		"-- session --\nnow: 2026-02-30T00:00:00Z\n", "-- session --\nnow: 2026-01-02T03:04:05.123456789+01:00\ntls: {version: none, certificate: {sans: [x]}}\n", "-- envelope --\nMAIL FROM:<>\nRCPT TO:<a@b>x\n-- want --\nrules: [a, b]\nreply: 550 5.7.1 No\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 {
			return
		}
		c, err := ParseCase("x.txtar", text)
		if err != nil {
			var found yamldoc.Findings
			if !errors.As(err, &found) || c != nil {
				t.Fatalf("%T: %v", err, err)
			}
			for _, one := range found {
				if one.Line < 0 || one.Line > 1+strings.Count(string(text), "\n") || one.Problem == "" || strings.ContainsFunc(one.String(), unicode.IsControl) {
					t.Fatalf("%q: %q", text, one)
				}
			}
			return
		}
		tx := &c.Transaction
		paths := []message.Path{tx.From}
		for _, to := range tx.To {
			paths = append(paths, to.Path)
		}
		for i, p := range paths {
			if len(tx.To) == 0 && i == 0 {
				continue
			}
			if again, rest, err := message.ParsePath(p.String(), true); err != nil && len(p.String()) <= 256 || err == nil && (rest != "" || again != p) {
				t.Fatalf("%q: %q is read as %v, %v", text, p.String(), again, err)
			}
		}
		again, err := ParseCase("x.txtar", txtar.Format(c.archive))
		if err != nil || !reflect.DeepEqual(again.Transaction, c.Transaction) || !reflect.DeepEqual(again.Policy, c.Policy) || again.Wants() != c.Wants() || again.Verdict() != c.Verdict() {
			t.Fatalf("%q, written again, is %v, %v", text, again, err)
		}
	})
}
