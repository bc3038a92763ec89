package message

import (
	"net/mail"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for _, tc := range []struct {
		in, want, rest string // want "": refused
	}{
		{"<alice@example.com>", "<alice@example.com>", ""},
		{"<alice@EXAMPLE.com> SIZE=1", "<alice@example.com>", " SIZE=1"},
		{"<>", "<>", ""},
		{"<postmaster>", "<postmaster>", ""},
		{"<@a.example,@b.example:alice@example.com>", "<alice@example.com>", ""},
		{`<"a b"@example.com>`, `<"a b"@example.com>`, ""},
		{`<"alice"@example.com>`, `<alice@example.com>`, ""},
		{`<"victim@evil> ORCPT=rfc822;x"@good.org>`, `<"victim@evil> ORCPT=rfc822;x"@good.org>`, ""},
		{`<"a\"b\\c"@example.com>`, `<"a\"b\\c"@example.com>`, ""},
		{`<""@example.com>`, `<""@example.com>`, ""},
		{"<a@[192.0.2.1]>", "<a@[192.0.2.1]>", ""},
		{"<a@[IPv6:2001:DB8::1]>", "<a@[IPv6:2001:db8::1]>", ""},
		{"<" + strings.Repeat("a", 64) + "@example.com>", "<" + strings.Repeat("a", 64) + "@example.com>", ""},
		{"<" + strings.Repeat("a", 65) + "@example.com>", "<" + strings.Repeat("a", 65) + "@example.com>", ""},
		{"<" + strings.Repeat("a", 242) + "@example.com>", "<" + strings.Repeat("a", 242) + "@example.com>", ""},
		{"<" + strings.Repeat("a", 243) + "@example.com>", "", ""},
		{"<.a@b>", `<".a"@b>`, ""}, {"<a.@b>", `<"a."@b>`, ""}, {"<a..b@c>", `<"a..b"@c>`, ""}, {"<a@b_c>", "<a@b_c>", ""}, {"<a@_b.c>", "<a@_b.c>", ""}, {"<a@b.c.>", "<a@b.c>", ""},
		{"<a@b..>", "", ""}, {"<a@.>", "", ""}, {"<a@[192.0.2.1].>", "", ""},
		{"<a@" + strings.Repeat("a", 64) + ".com>", "", ""},
		{"<a@" + strings.Repeat("abcdefg.", 40) + "com>", "", ""},
		{"alice@example.com", "", ""}, {" <a@b>", "", ""}, {"<a@b", "", ""}, {"<a@@b>", "", ""}, {"<a@b@c>", "", ""}, {"<@b>", "", ""}, {"<a@>", "", ""},
		{"<a b@c>", "", ""}, {"<a@-b>", "", ""}, {"<a@b->", "", ""}, {"<a@b..c>", "", ""}, {"<a@.b>", "", ""},
		{"<a@[1.2.3]>", "", ""}, {"<a@[IPv6:1.2.3.4]>", "", ""}, {"<a@[2001:db8::1]>", "", ""}, {"<a@[IPv6:fe80::1%eth0]>", "", ""},
		{"<a\x00@b>", "", ""}, {"<\"a\x07\"@b>", "", ""}, {"<a@b\x00>", "", ""}, {"<é@b>", "", ""}, {`<"a@b>`, "", ""}, {`<"a"b@c>`, "", ""}, {"<a@b>>", "<a@b>", ">"},
	} {
		p, rest, err := ParsePath(tc.in, false)
		switch {
		case tc.want == "" && err == nil:
			t.Errorf("%q was read as %s, rest %q", tc.in, p, rest)
		case tc.want != "" && (err != nil || p.String() != tc.want || rest != tc.rest):
			t.Errorf("%q: got %s, %q, %v", tc.in, p, rest, err)
		}
	}
	if p, _, err := ParsePath("<é@bücher.example>", true); err != nil || p.String() != "<é@xn--bcher-kva.example>" || p.DomainUnicode() != "bücher.example" {
		t.Errorf("with SMTPUTF8: %v, %v", p, err)
	}
	if _, _, err := ParsePath("<\xff@b>", true); err == nil {
		t.Error("invalid UTF-8 was read")
	}
}

// TestOneSpelling holds that all spellings of a domain are read as one, and that characters which programs map in different ways are refused.
func TestOneSpelling(t *testing.T) {
	for _, tc := range []struct{ in, key, unicode string }{
		{"<a@exämple.com>", "a@xn--exmple-cua.com", "exämple.com"},
		{"<a@exa\u0308mple.com>", "a@xn--exmple-cua.com", "exämple.com"},
		{"<A@XN--EXMPLE-CUA.com>", "a@xn--exmple-cua.com", "exämple.com"},
		{"<a@münchen.xn--bcher-kva.example>", "a@xn--mnchen-3ya.xn--bcher-kva.example", "münchen.bücher.example"},
		{"<a@straße.example>", "a@xn--strae-oqa.example", "straße.example"},
		{"<a@例え.example>", "a@xn--r8jz45g.example", "例え.example"},
		{"<a@example.com>", "a@example.com", ""},
		{"<a@xn--zzzzzz99999.example>", "a@xn--zzzzzz99999.example", ""},
		{"<bu\u0308cher@example.com>", "bücher@example.com", ""},
		{"<B\u00fcCHER@example.com>", "bücher@example.com", ""},
		{"<al\u0130ce@example.com>", "al\u0130ce@example.com", ""},
		{"<\u212aelvin@example.com>", "kelvin@example.com", ""}, // canonically the same letter
		{"<a@\uff45xample.com>", "", ""},
		{"<a@\ufb01rm.example>", "", ""},
		{"<a@exämple.com\u3002>", "", ""},
		{"<a@Exämple.com>", "a@xn--exmple-cua.com", "exämple.com"},
		{"<a@EXÄMPLE.com>", "", ""},
		{"<a@\u05d0b.example>", "", ""}, // right-to-left and left-to-right letters in one label (RFC 5893)
		{"<" + strings.Repeat("x", 236) + "@例え.example>", "", ""},
	} {
		p, _, err := ParsePath(tc.in, true)
		if (err == nil) != (tc.key != "") || err == nil && (p.Key() != tc.key || p.DomainUnicode() != tc.unicode) {
			t.Errorf("%q: got %q and %q, %v; want %q and %q", tc.in, p.Key(), p.DomainUnicode(), err, tc.key, tc.unicode)
		}
	}
}

func TestParseMailboxNeedsAll(t *testing.T) {
	for _, s := range []string{"", "alice", "alice@", "a@b ", " a@b", "a@b>", "<a@b>", "a@b,c@d", "a..b@c", ".a@b", "a.@b", "a@b_c", "a@b."} {
		if m, err := ParseMailbox(s, false); err == nil {
			t.Errorf("%q was read as %v", s, m)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"<a@b>", "<>", `<"a b"@c> X=1`, "<@a:b@c>", "<é@b>", "<a@[IPv6:::1]>", "<a>"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, utf8 bool) {
		p, rest, err := ParsePath(s, utf8)
		if err != nil {
			return
		}
		out := p.String()
		if strings.ContainsAny(out, "\r\n\x00") || !strings.HasSuffix(s, rest) {
			t.Fatalf("%q gives %q, rest %q", s, out, rest)
		}
		// What is written reads as the same path, and nothing is left over.
		again, left, err := ParsePath(out, utf8)
		if err != nil && len(out) > maxPath {
			return // quoting may outgrow what came in
		}
		if len(p.Local) > maxLocal || len(p.Domain) > maxDomain || !utf8 && strings.ContainsFunc(out, func(c rune) bool { return c >= 0x80 }) {
			t.Fatalf("%q gives %q, out of bounds", s, out)
		}
		if err != nil || again != p || left != "" {
			t.Fatalf("%q was written as %q and reads as %v, %q, %v", s, out, again, left, err)
		}
		if p.Domain == "" {
			return
		}
		// The other parsers give the same mailbox, and so does the standard library if it accepts the text.
		m, err := ParseMailbox(p.Address(), utf8)
		e, eerr := NewEnvelopeEdit(OpAddRecipient, p.Address(), utf8)
		if strings.Contains(p.Domain, "_") { // ParseMailbox is strict
			m, err = p.Mailbox, nil
		}
		if err != nil || m != p.Mailbox || eerr != nil || e.Path() != p {
			t.Fatalf("%q reads as %v, %v, and in an edit as %v, %v", p.Address(), m, err, e.Path(), eerr)
		}
		if theirs, err := mail.ParseAddress(p.Address()); err == nil && theirs.Address != p.Local+"@"+p.Domain {
			t.Fatalf("%q is read by net/mail as %q", p.Address(), theirs.Address)
		}
	})
}
