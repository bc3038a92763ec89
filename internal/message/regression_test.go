package message

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func facts(t *testing.T, header string) Facts {
	t.Helper()
	h, err := ParseHeader(crlf(header), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return ReadFacts(h)
}

func (f Facts) has(kind, field string) bool {
	return slices.ContainsFunc(f.Ambiguous, func(a Ambiguity) bool { return a.Kind == kind && a.Field == field })
}

// TestHeapHidesNothing: what a policy tolerates, however often it is there, does not push out what it does not. An address in a
// display name passes the default policy; two From fields do not.
func TestHeapHidesNothing(t *testing.T) {
	heap := strings.Repeat(`"x@corp.example" <a@b.c>, `, MaxOriginators-2) + "a@b.c"
	f := facts(t, "From: "+heap+"\nFrom: ceo@corp.example ceo\nTo:\nTo: ,\nDate: x\nDate: y\nBcc: ,\nSender: a@b.c\n\n")
	for _, want := range [][2]string{{"address-in-display-name", "from"}, {"duplicate-from", "from"}, {"unparsable-from", "from"}, {"duplicate-to", "to"}, {"duplicate-date", "date"}, {"unparsable-bcc", "bcc"}} {
		if !f.has(want[0], want[1]) {
			t.Errorf("%s is hidden among %v", want[0], f.Ambiguous)
		}
	}
	if len(f.Ambiguous) > 20 {
		t.Errorf("%d ambiguities are listed", len(f.Ambiguous))
	}
	f = facts(t, strings.Repeat("Bcc: a@b.c\n \n", 100)+"From: a@b.c\nSubject: x\n \n\n")
	if !f.has("blank-line-in-header", "subject") {
		t.Errorf("a blank line is hidden among %v", f.Ambiguous)
	}
}

// TestCVE202424784: comments in display names made net/mail see other addresses than its callers' next hops did.
func TestCVE202424784(t *testing.T) {
	for in, want := range map[string]string{
		"(ceo@corp.example) Alice <a@b.c>":                   "Alice|a@b.c",
		"Alice (<ceo@corp.example>,) <a@b.c>":                "Alice|a@b.c",
		"Alice (, ceo@corp.example (x) ) B <a@b.c>":          "Alice B|a@b.c",
		`Alice (\)) <a@b.c>`:                                 "Alice|a@b.c",
		`Alice (\\) <a@b.c> (<ceo@corp.example>)`:            "Alice|a@b.c",
		"Alice (<ceo@corp.example> <a@b.c>":                  "",
		"Alice ) <ceo@corp.example> ( <a@b.c>":               "",
		"Alice <a(ceo@corp.example)@b.c>":                    "",
		"Alice <a@b.c(ceo@corp.example)>":                    "",
		"Alice (\\\x00) <a@b.c>":                             "",
		"(ceo@corp.example)":                                 "",
		"ceo@corp.example(,) Alice <a@b.c>":                  "",
		`"Alice <ceo@corp.example>, " (x) <a@b.c>`:           "Alice <ceo@corp.example>, |a@b.c",
		"=?utf-8?q?Alice_=3Cceo=40corp.example=3E?= <a@b.c>": "Alice <ceo@corp.example>|a@b.c",
	} {
		a, err := ParseAddresses(in)
		got := ""
		if err == nil {
			for _, m := range a.List {
				got += m.Name + "|" + m.Address()
			}
		}
		if got != want {
			t.Errorf("%q: got %q (%v), want %q", in, got, err, want)
		}
	}
}

// TestQuadraticInputs (CVE-2026-39820, CVE-2026-42499): inputs made to be read again and again are read once. The work is
// counted in allocations, and each is as long as a field may be, so that anything quadratic would not come back in time.
func TestQuadraticInputs(t *testing.T) {
	for _, unit := range []string{"(", "()", "(\\", "\"", `"a"`, "=?", "=?utf-8?b?", "=?a?b?x", "=?utf-8?q?a=40b.c?= ", "a@", "a@b.c ", "a@b.c,", "a:", "g:;,", "<", ".", "\\", " ", "@", "[", "a@[", "é"} {
		for _, frame := range []string{"%s", "%s <a@b.c>", "\"%s\" <a@b.c>", "(%s) a@b.c", "a@b.c (%s)", "g: %s;", "<a@%s>"} {
			value := strings.Repeat(unit, maxAddressField/len(unit)/2)
			header := "From: " + strings.ReplaceAll(frame, "%s", value) + "\r\nFrom: a@b.c\r\n\r\n"
			h, err := ParseHeader([]byte(header), Limits{FieldBytes: 1 << 20})
			if err != nil {
				t.Fatalf("%q in %q: %v", unit, frame, err)
			}
			if f := ReadFacts(h); !f.has("duplicate-from", "from") {
				t.Errorf("%q in %q: %v", unit, frame, f.Ambiguous)
			}
		}
	}
}

// TestUnclosedWords: a search for the end of an encoded word that has none is made once, and not for each word. The time is compared with
// that of another input of the same length, in the best of some rounds.
func TestUnclosedWords(t *testing.T) {
	const size = 512 << 10
	best := func(unit string) time.Duration {
		s, least := strings.Repeat(unit, size/len(unit)), time.Hour
		for range 3 {
			began := time.Now()
			if w, ok := nextWord(s, 0); ok {
				t.Fatalf("%q has the word %+v", unit, w)
			}
			least = min(least, time.Since(began))
		}
		return least
	}
	plain := best("=?")
	for _, unit := range []string{"=?a?b?x", "=?a?q? ", "=?a?B?("} {
		if took := best(unit); took > 20*plain {
			t.Errorf("%q took %v, and an input without encodings %v", unit, took, plain)
		}
	}
}

// TestVU517845 holds the forms in which a From field has shown people one author and checked another.
func TestVU517845(t *testing.T) {
	for _, tc := range []struct{ header, kind string }{
		{"From: a@b.c\nFrom: ceo@corp.example\n", "duplicate-from"},
		{"From: a@b.c,ceo@corp.example\n", "several-authors-no-sender"},
		{"From: Team: a@b.c, ceo@corp.example;\nSender: a@b.c\n", "group-in-from"},
		{"From: <a@b.c>, <ceo@corp.example>\n", "several-authors-no-sender"},
		{"From: a@b.c\nSender: ceo@corp.example\nSender: a@b.c\n", "duplicate-sender"},
		{"From: ceo@corp.example <a@b.c>\n", "unparsable-from"},
		{"From: <ceo@corp.example> a@b.c\n", "unparsable-from"},
		{"From: ceo@corp.example,,a@b.c\n", "unparsable-from"},
		{"From: <@ceo@corp.example:a@b.c>\n", "unparsable-from"},
		{"From: a@b.c\x08\n", "unparsable-from"},
		{"From: =?utf-8?q?ceo=40corp.example=3C?=@b.c\n", "unparsable-from"},
		{"From: <=?utf-8?q?ceo=40corp.example=2C?=@b.c>\n", "unparsable-from"},
		{"From: \"ceo@corp.example>\"@b.c\n", "specials-in-local-part"},
		{"From: x@ ceo@corp.example\n", "unparsable-from"},
		{"From: \"x@ ceo@corp.example\" <a@b.c>\n", "address-in-display-name"},
		{"From: \"a@b.c ceo@corp.example\" <a@b.c>\n", "address-in-display-name"},
		{"From: \"=?utf-8?q?ceo=40corp=2Eexample?=\" <a@b.c>\n", "disguised-address-in-display-name"},
		{"From: a@b.c (ceo@corp.example)\n", "address-in-display-name"},
		{"From: a@b.c (=?utf-8?q?ceo=40corp=2Eexample?=)\n", "disguised-address-in-display-name"},
		{"From: a@b.c\n \n", "blank-line-in-header"},
		{"From: a@b.c\nSubject: x\n\t\n y\n", "blank-line-in-header"},
		{"From: a@b.c\nContent-Type: a/b\nContent-type: c/d\n", "duplicate-content-type"},
		{"From: a@b.c\nResent-To: x@y.z\n", "missing-resent-from"},
		{"From: a@b\u3002c\n", "unparsable-from"},
		{"From: a@ban\u212a.example\n", "unparsable-from"},
		{"From: a\u00ad@b.c\n", "unparsable-from"},
	} {
		f := facts(t, tc.header+"\n")
		if len(f.Ambiguous) != 1 || f.Ambiguous[0].Kind != tc.kind {
			t.Errorf("%q: got %v, want %s", tc.header, f.Ambiguous, tc.kind)
		}
	}
	for _, fine := range []string{
		"From: Alice (at work, Mon-Fri) <a@b.c>\n", "From: \"A. B. @ C\" <a@b.c>\n", "From: a@b.c (A@B.C)\n", "From: Al <al@bücher.example>\n", "From: \"a b\"@b.c\n",
		"From: a@b.c\nSubject: a\n b\n\tc\n", "From: a@b.c\nResent-From: x@y.z\nResent-From: y@y.z\n",
	} {
		if f := facts(t, fine+"\n"); len(f.Ambiguous) != 0 {
			t.Errorf("%q: %v", fine, f.Ambiguous)
		}
	}
}

// TestCVE202642507: what is wrong with a message is not repeated raw by the text that says so.
func TestCVE202642507(t *testing.T) {
	const evil = "x\x1b[2J\u202e\r\n250 OK"
	_, errHeader := ParseHeader([]byte(evil+"\r\n\r\n"), Limits{})
	_, errName := NewEdit(OpAddHeader, evil, 0, "x", true)
	_, errValue := NewEdit(OpAddHeader, "X", 0, evil, true)
	_, errAddress := NewEnvelopeEdit(OpAddRecipient, evil, true)
	_, errList := ParseAddresses(evil)
	_, errReply := NewReply(550, evil, "x")
	_, _, errPath := ParsePath("<"+evil+">", true)
	for _, err := range []error{errHeader, errName, errValue, errAddress, errList, errReply, errPath} {
		if err == nil {
			t.Error("no error")
			continue
		}
		for _, c := range err.Error() {
			if c < ' ' || c > '~' {
				t.Errorf("raw text in %q", err.Error())
				break
			}
		}
	}
	for _, a := range facts(t, "From: \"\u202e\u00e9\" <\"\u00e9@<>\"@b.c>, \x1b\nSender: \"ceo@corp.example \u00e9\" <\u00e9@b.c>\n\n").Ambiguous {
		if got := clean(a.Text, len(a.Text)); got != a.Text {
			t.Errorf("raw text in %q", a.Text)
		}
	}
}

// TestEmptyQuotesAreNobody: <""> without a domain would be written as the null path.
func TestEmptyQuotesAreNobody(t *testing.T) {
	if p, _, err := ParsePath(`<"">`, false); err == nil {
		t.Errorf("read as %v", p)
	}
	if a, err := ParseAddresses(`""`); err == nil {
		t.Errorf("read as %v", a)
	}
	if got := (Path{}).String(); got == "<>" {
		t.Error("the zero path is written as the null path")
	}
}

// TestPlanIsDeterministic: neither the result nor the error depends on the order in which rules fired.
func TestPlanIsDeterministic(t *testing.T) {
	good := []Edit{edit(t, OpReplaceHeader, "Subject", 1, "x"), edit(t, OpReplaceHeader, "subject", 1, "x"), edit(t, OpAddHeader, "B", 0, "1"), edit(t, OpAddHeader, "b", 0, "1"), edit(t, OpInsertHeader, "C", 2, "1"), edit(t, OpInsertHeader, "A", 2, "1")}
	bad := []Edit{edit(t, OpReplaceHeader, "S", 0, "x"), edit(t, OpRemoveHeader, "s", 3, ""), edit(t, OpRemoveHeader, "S", 2, ""), edit(t, OpRemoveHeader, "S", 1, "")}
	const wantGood, wantBad = "[replace_header Subject[1]: x insert_header A[2]: 1 insert_header C[2]: 1 add_header B[0]: 1]",
		`edits contradict each other: "remove_header S[1]" and "replace_header S[0]: x"; let one rule decide`
	for range 6 {
		good, bad = append(good[1:], good[0]), append(bad[1:], bad[0])
		p, err := Plan(good)
		if got := fmt.Sprint(p.list); err != nil || got != wantGood {
			t.Errorf("got %s, %v", got, err)
		}
		if _, err := Plan(bad); err == nil || err.Error() != wantBad {
			t.Errorf("got %v", err)
		}
	}
}
