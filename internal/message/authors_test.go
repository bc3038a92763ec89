package message

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestAuthorsCorpus reads headers that were made to be misread, and ordinary ones. A header of the first kind must be ambiguous, name another author,
// or be rewritten. An ordinary one must be unambiguous and name alice.
func TestAuthorsCorpus(t *testing.T) {
	f, err := os.Open("testdata/authors.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		var c struct{ Name, Kind, Default, Strict, Header, Base64 string }
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Base64 != "" {
			b, err := base64.StdEncoding.DecodeString(c.Base64)
			if err != nil {
				t.Fatal(err)
			}
			c.Header = string(b)
		}
		h, err := ParseHeader([]byte(c.Header+"\r\n\r\n"), Limits{})
		if err != nil {
			if c.Default == "pass" {
				t.Errorf("%s: %v", c.Name, err)
			}
			continue
		}
		facts := ReadFacts(h)
		var kinds []string
		for _, a := range facts.Ambiguous {
			if !a.Mended {
				kinds = append(kinds, a.Kind)
			}
		}
		lenient := slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return k == "via-address-in-display-name" })
		foreign := len(facts.From) == 0
		for _, m := range append(slices.Clone(facts.From), append(facts.Sender, facts.Resent...)...) {
			if base, _, _ := strings.Cut(lower(m.Local), "+"); base != "alice" || m.Domain != "example.com" {
				foreign = true
			}
		}
		for i, right := range []string{c.Default, c.Strict} {
			got := [][]string{lenient, kinds}[i]
			refused := len(got) > 0 || foreign
			switch {
			case right == "pass" && refused:
				t.Errorf("%s (%d): refused (%v, foreign %v): %q", c.Name, i, got, foreign, c.Header)
			case right == "refuse" && !refused && len(facts.Canonical) == 0:
				t.Errorf("%s (%d): neither refused nor rewritten: %q", c.Name, i, c.Header)
			case right == "refuse" && !refused:
				t.Logf("%s (%d): rewritten: %q -> %+v", c.Name, i, c.Header, facts.Canonical)
			case right != "refuse" && len(facts.Canonical) > 0 && i == 0:
				t.Logf("%s (%d): passes rewritten: %q -> %+v", c.Name, i, c.Header, facts.Canonical)
			}
		}
	}
	if n < 290 {
		t.Errorf("%d headers read", n)
	}
}
