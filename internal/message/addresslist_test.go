package message

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseAddresses(t *testing.T) {
	for _, tc := range []struct{ in, want string }{ // want "": refused; "name|address" joined by "; "
		{"alice@example.com", "|alice@example.com"},
		{"Alice <alice@EXAMPLE.com>", "Alice|alice@example.com"},
		{`"Alice, the first" <a@b.c>, Bob Q. Builder <b@b.c>`, "Alice, the first|a@b.c; Bob Q. Builder|b@b.c"},
		{"alice@example.com (Alice (really))", "|alice@example.com"},
		{"(x) Alice (y) <a@b.c> (z)", "Alice|a@b.c"},
		{"=?utf-8?q?caf=C3=A9?= <a@b.c>", "café|a@b.c"},
		{"=?utf-8?q?a?= =?utf-8?q?b?= <a@b.c>", "ab|a@b.c"},
		{"=?x-none?q?a?= <a@b.c>", "=?x-none?q?a?=|a@b.c"},
		{"Müller <m@b.c>", "Müller|m@b.c"},
		{"é@bücher.example", "|é@xn--bcher-kva.example"},
		{`"a b"@c.d`, `|"a b"@c.d`},
		{"undisclosed-recipients:;", " group"},
		{"team: a@b.c, Bob <b@b.c>; , c@b.c", "|a@b.c; Bob|b@b.c; |c@b.c group"},
		{"alice", "|alice"},
		{"<alice>", "|alice"},
		{"a@[192.0.2.1]", "|a@[192.0.2.1]"},
		// Readers disagree about these, so they are not read at all.
		{"", ""}, {",", ""}, {"a@b.c,", ""}, {",a@b.c", ""}, {"a@b.c,,d@e.f", ""}, {"a@b.c d@e.f", ""}, {"a@b.c;d@e.f", ""},
		{"<a@b.c> <d@e.f>", ""}, {"a <b@c.d> e", ""}, {"a <b@c.d", ""}, {"a b@c.d", ""}, {"a@b@c.d", ""}, {"a @b.c", ""}, {"a@ b.c", ""}, {"a . b@c.d", ""},
		{"< a@b.c>", ""}, {"<a@b.c >", ""}, {"<@x.y:a@b.c>", ""}, {"<>", ""}, {"Alice <>", ""}, {"a(b)@c.d", ""}, {"<a@b(c).d>", ""},
		{"x: y: a@b.c;;", ""}, {"x: a@b.c", ""}, {": a@b.c;", ""}, {"x: a@b.c,;", ""}, {"x:,a@b.c;", ""},
		{`"a@b.c`, ""}, {"(a@b.c", ""}, {"a@b.c)", ""}, {"a\x00@b.c", ""}, {"a@b.c\x7f", ""}, {"\xff@b.c", ""}, {"a\u200b@b.c", ""}, {"a@b\u202e.c", ""},
		{"=?utf-8?q?a=40b.c?=", ""}, {"Alice Bob", ""}, {`"a\` + "\x01" + `"@b.c`, ""}, {strings.Repeat("(", 9) + strings.Repeat(")", 9) + "a@b.c", ""},
	} {
		a, err := ParseAddresses(tc.in)
		var parts []string
		for _, m := range a.List {
			parts = append(parts, m.Name+"|"+m.Address())
		}
		got := strings.Join(parts, "; ")
		if a.Group {
			got += " group"
		}
		if err != nil {
			got = ""
		}
		if got != tc.want {
			t.Errorf("%q: got %q (%v), want %q", tc.in, got, err, tc.want)
		}
	}
}

func TestPiecesCompleteUnqualifiedAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"alice":                                 "alice@x.y",
		"Bob <bob>, carol@b.c (Carol), dave":    "Bob <bob@x.y>, carol@b.c (Carol), dave@x.y",
		`"Bob, B" <"b b">,alice (A) `:           `"Bob, B" <"b b"@x.y>,alice@x.y (A) `,
		"team: a, B <b>;, c@b.c":                "team: a@x.y, B <b@x.y>;, c@b.c",
		"(comment) alice (comment), bob@b.c":    "(comment) alice@x.y (comment), bob@b.c",
		"=?utf-8?q?caf=C3=A9?= <alice>, a@b.cd": "=?utf-8?q?caf=C3=A9?= <alice@x.y>, a@b.cd",
	} {
		a, err := ParseAddresses(in)
		if got := strings.Join(a.Pieces, "@x.y"); err != nil || got != want {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
		if strings.Join(a.Pieces, "") != in {
			t.Errorf("%q: pieces %q", in, a.Pieces)
		}
	}
	if a, _ := ParseAddresses("a@b.c"); a.Pieces != nil {
		t.Errorf("a qualified address has pieces %q", a.Pieces)
	}
}

// TestLinear bounds work, not time: what took net/mail quadratic time (CVE-2026-39820, CVE-2026-42499 and their like) is over
// with in one pass, so ten times the input may not cost a hundred times the allocation.
func TestLinear(t *testing.T) {
	for _, unit := range []string{"(", "((a)", "a,", `"a" `, "a: b@c.d;,", "<", "a@b.c,", "=?utf-8?q?a?= ", "\\", "a."} {
		cost := func(n int) float64 {
			s := strings.Repeat(unit, n)
			return testing.AllocsPerRun(2, func() { ParseAddresses(s) })
		}
		if small, big := cost(100), cost(1000); big > 30*small+100 {
			t.Errorf("%q: %v allocations for 100, %v for 1000", unit, small, big)
		}
	}
}

// FuzzParseAddresses compares the reader with net/mail: an address that is accepted here must not be another address there.
func FuzzParseAddresses(f *testing.F) {
	for _, s := range []string{"a@b.c", "A <a@b.c>, b", `"x" <a@b.c> (c)`, "g: a@b.c, d;", "=?utf-8?q?a?= <a@b.c>", "a b@c.d", "é <é@b.c>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddresses(s)
		if err != nil {
			var ae *AddressError
			if !errors.As(err, &ae) || ae.Offset < 0 || ae.Offset > len(s) || ae.What == "" || len(err.Error()) > 1000 {
				t.Fatalf("%q: %#v", s, err)
			}
			return
		}
		if len(a.List) > maxMailboxes {
			t.Fatalf("%d mailboxes", len(a.List))
		}
		if a.Pieces != nil && strings.Join(a.Pieces, "") != s {
			t.Fatalf("%q: pieces %q", s, a.Pieces)
		}
		for _, m := range a.List {
			if strings.ContainsAny(m.Address()+m.Name, "\r\n\x00") {
				t.Fatalf("%q gives %q", s, m)
			}
			if m.Name != visible(m.Name) || !utf8.ValidString(m.Name) {
				t.Fatalf("%q gives the name %q", s, m.Name)
			}
			wantMailbox(t, m)
		}
		if a.Pieces != nil { // what net/mail has not; completed, it is the same list
			whole, err := ParseAddresses(strings.Join(a.Pieces, "@added.example"))
			if err != nil || whole.Pieces != nil || len(whole.List) != len(a.List) {
				t.Fatalf("%q is completed to %v, %v", s, whole, err)
			}
			for i, m := range a.List {
				if m.Domain == "" {
					m.Domain = "added.example"
				}
				if whole.List[i] != m {
					t.Fatalf("%q: %v is completed to %v", s, a.List[i], whole.List[i])
				}
			}
			s, a = strings.Join(a.Pieces, "@added.example"), whole
		}
		theirs, err := mail.ParseAddressList(s)
		if err != nil {
			return
		}
		if len(theirs) != len(a.List) {
			t.Fatalf("%q: we read %v, net/mail %v", s, a.List, theirs)
		}
		for i, m := range a.List {
			their := theirs[i].Address
			if at := strings.LastIndexByte(their, '@'); !ascii(their[at:]) {
				domain, err := domainForm(strings.ToLower(their[at+1:]))
				if err != nil {
					t.Fatalf("%q: %v", s, err)
				}
				their = their[:at+1] + domain
			}
			if got := fmt.Sprintf("%s@%s", m.Local, m.Domain); !strings.EqualFold(got, their) {
				t.Fatalf("%q: we read %q, net/mail %q", s, got, theirs[i].Address)
			}
		}
	})
}
