package message

import (
	"strings"
	"testing"
)

// TestAmbiguous goes through the forms of CERT VU#517845: each is a header in which two readers could see two originators.
func TestAmbiguous(t *testing.T) {
	const rest = "To: x@example.net\nDate: Mon, 01 Jun 2026 12:00:00 +0000\nMessage-ID: <1@x.y>\n\n"
	for _, tc := range []struct{ header, kinds string }{
		{"From: a@b.c\n", ""},
		{"From: A <a@b.c>\nSender: b@b.c\n", ""},
		{"From: a@b.c, d@e.f\nSender: a@b.c\n", ""},
		{"Resent-From: a@b.c\nFrom: d@e.f\n", ""},
		{"From: \"a@b.c\" <a@b.c>\n", ""},
		{"From: Al (at work) <a@b.c>\nBcc:\n", ""},
		{"", "missing-from"},
		{"From: a@b.c\nfrom: d@e.f\n", "duplicate-from"},
		{"From: a@b.c\nSender: a@b.c\nSENDER: d@e.f\n", "duplicate-sender"},
		{"From: a@b.c\nDate: x\n", "duplicate-date"},
		{"From: a@b.c\nTo: y@z.a\n", "duplicate-to"},
		{"From: a@b.c, d@e.f\n", "several-authors-no-sender"},
		{"From: a@b.c\nSender: a@b.c, d@e.f\n", "several-in-sender"},
		{"From: g: a@b.c;\n", "group-in-from"},
		{"From: g:;\n", "group-in-from empty-from"},
		{"From:\n", "unparsable-from"},
		{"From: <a@b.c> <d@e.f>\n", "unparsable-from"},
		{"From: a@b.c d@e.f\n", "unparsable-from"},
		{"From: =?utf-8?q?a=40b=2Ec=2C?= d@e.f\n", "unparsable-from"},
		{"From: \"ceo@corp.example\" <a@b.c>\n", "address-in-display-name"},
		{"From: =?utf-8?q?ceo=40corp=2Eexample?= <a@b.c>\n", "disguised-address-in-display-name"},
		{"From: \"A\n ceo@corp.example\" <a@b.c>\n", "folded-in-from address-in-display-name"},
		{"From: a@b.c (x (y)\n , \"ceo)\nSender: \"A\\\"\n <x\" <a@b.c>\n", "folded-in-from folded-in-sender"},
		{"From: \"A very long\n name\" (and\n more)\n <a@b.c>,\n \"B\" <a@b.c>\nSender: a@b.c\nTo: \"A,\n B\" <a@b.c>\n", "duplicate-to"},
		{"From: a@b.c\nReply-To: x y z\n", "unparsable-reply-to"},
		{"Resent-From: x y\nFrom: a@b.c\n", "unparsable-resent-from"},
		{"From: a@b.c\nSender: \xff@b.c\n", "unparsable-sender"},
	} {
		h, err := ParseHeader(crlf(tc.header+rest), Limits{})
		if err != nil {
			t.Errorf("%q: %v", tc.header, err)
			continue
		}
		var kinds []string
		for _, a := range ReadFacts(h).Ambiguous {
			kinds = append(kinds, a.Kind)
			if a.Text == "" || a.Field == "" {
				t.Errorf("%q: %+v does not say what is wrong", tc.header, a)
			}
		}
		if got := strings.Join(kinds, " "); got != tc.kinds {
			t.Errorf("%q: got %q, want %q", tc.header, got, tc.kinds)
		}
	}
}

func TestReadFacts(t *testing.T) {
	h, err := ParseHeader(crlf("From: Alice <alice>\nTo: b@b.c, carol\nTo: dave\nCc: g: e@e.f;\nBcc: h@h.i\nResent-From: r@r.s\nResent-Sender: q@r.s\n\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	f := ReadFacts(h)
	if f.From[0].Name != "Alice" || len(f.To) != 3 || f.Cc[0].Local != "e" || f.Bcc[0].Domain != "h.i" || len(f.Resent) != 2 {
		t.Errorf("got %+v", f)
	}
	var got []string
	for _, u := range f.Unqualified {
		got = append(got, u.Name+" "+string(rune('0'+u.Index))+" "+strings.Join(u.Pieces, "@x.y"))
	}
	if s := strings.Join(got, "; "); s != "From 1 Alice <alice@x.y>; To 1 b@b.c, carol@x.y; To 2 dave@x.y" {
		t.Errorf("got %q", s)
	}
}

// TestTooManyOriginators: From, Sender and the Resent- fields may name 50 mailboxes together. With one more, policy sees none of them
// and one ambiguity, wherever the one too many is. Destinations do not count.
func TestTooManyOriginators(t *testing.T) {
	list := func(n int) string { return strings.TrimSuffix(strings.Repeat("a, ", n), ", ") + "\n" }
	for _, tc := range []struct {
		header                     string
		field                      string // that names too many; "" for none
		from, sender, resent, more int
	}{
		{"From: " + list(50), "", 50, 0, 0, 0},
		{"From: " + list(51), "from", 0, 0, 0, 0},
		{"From: a\nSender: b\nResent-From: " + list(24) + "Resent-Sender: " + list(24), "", 1, 1, 48, 0},
		{"From: a\nSender: b\nResent-From: " + list(24) + "Resent-Sender: " + list(25), "resent-sender", 0, 0, 0, 0},
		{"Resent-From: " + list(25) + "Resent-From: " + list(24) + "From: a\n", "", 1, 0, 49, 0},
		{"Resent-From: " + list(25) + "Resent-From: " + list(24) + "Sender: a\nFrom: a\nSender: b\nResent-From: a, (\n", "from", 0, 0, 0, 0},
		{"To: " + list(60) + "Resent-To: " + list(60) + "From: a\n", "", 1, 0, 0, 2},
		{"To: " + list(60) + "From: " + list(60), "from", 0, 0, 0, 1},
		{"From: " + list(40) + "From: " + list(11), "from", 0, 0, 0, 0},
		{"From: g: " + strings.TrimSpace(list(51)) + ";\n", "from", 0, 0, 0, 0},
	} {
		f := facts(t, tc.header+"\n")
		if len(f.From) != tc.from || len(f.Sender) != tc.sender || len(f.Resent) != tc.resent {
			t.Errorf("%.60q: From has %d, Sender %d, Resent %d", tc.header, len(f.From), len(f.Sender), len(f.Resent))
		}
		if f.has("too-many-originators", tc.field) != (tc.field != "") {
			t.Errorf("%.60q: %v", tc.header, f.Ambiguous)
		}
		if tc.field != "" && len(f.Unqualified) != tc.more {
			t.Errorf("%.60q: %d unqualified fields are left", tc.header, len(f.Unqualified))
		}
	}
}

// TestTooManyOriginatorsAreNotRead: a header of 10,000 mailboxes costs no more than the 50 that are read.
func TestTooManyOriginatorsAreNotRead(t *testing.T) {
	h, err := ParseHeader(crlf(strings.Repeat("Resent-From: a@b.c"+strings.Repeat(", a@b.c", 99)+"\n", 100)+"\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(10, func() { ReadFacts(h) }); n > 200 {
		t.Errorf("%v allocations", n)
	}
	f := ReadFacts(h)
	if len(f.Ambiguous) != 2 || f.Ambiguous[0].Kind != "too-many-originators" || f.Ambiguous[1].Kind != "missing-from" {
		t.Errorf("%v", f.Ambiguous)
	}
}

func TestNewHeader(t *testing.T) {
	h, err := NewHeader([][2]string{{"From", " a@b.c"}, {"Subject", " x\n\ty"}, {"X", ""}}, true, Limits{})
	if err != nil || string(h.AppendTo(nil)) != "From: a@b.c\r\nSubject: x\r\n\ty\r\nX:\r\n\r\n" {
		t.Errorf("got %q, %v", h.AppendTo(nil), err)
	}
	h, err = NewHeader([][2]string{{"From", "a@b.c"}}, false, Limits{})
	if err != nil || string(h.AppendTo(nil)) != "From: a@b.c\r\n\r\n" {
		t.Errorf("got %q, %v", h.AppendTo(nil), err)
	}
	for _, bad := range [][2]string{{"A", "x\nB: y"}, {"A B", "x"}, {"", "x"}, {"A", "x\ry"}, {"A", "x\x00"}, {"A", "x\n\nbody"}} {
		if h, err := NewHeader([][2]string{bad}, true, Limits{}); err == nil {
			t.Errorf("%q became %q", bad, h.AppendTo(nil))
		}
	}
}

func TestResentBlocks(t *testing.T) {
	const first, second = "Resent-From: a@b.c\nResent-To: x@y.z, y@y.z\nResent-Cc: z@y.z\nResent-Date: today\nResent-Message-ID: <1@b.c>\n", "Resent-Date: then\nResent-From: d@e.f, g@e.f\nResent-Sender: d@e.f\n"
	for _, tc := range []struct{ header, want string }{
		{"", ""},
		{first, "a@b.c  3 today"},
		{first + second, "a@b.c  3 today; d@e.f g@e.f d@e.f 0 then"},
		{first + "Received: x\n" + second, "a@b.c  3 today; d@e.f g@e.f d@e.f 0 then"},
		{"Resent-From: d@e.f\n" + first, "d@e.f  0 ; a@b.c  3 today"},
		{"Resent-From: a@b.c\nSubject: t\nResent-To: x@y.z\nResent-Date: today\n", "a@b.c  0 ;   1 today"},
		{"Resent-Date: today\nResent-Date: later\n" + first, "  0 today; a@b.c  3 later;   0 today"},
		{strings.Repeat("Resent-Date: today\n", 200), strings.TrimSuffix(strings.Repeat("  0 today; ", MaxOriginators), "; ")},
	} {
		f := facts(t, tc.header+"From: o@o.o\n\n")
		var blocks []string
		join := func(list []Mailbox) string {
			var keys []string
			for _, m := range list {
				keys = append(keys, m.Key())
			}
			return strings.Join(keys, " ")
		}
		for _, b := range f.ResentBlocks {
			blocks = append(blocks, join(b.From)+" "+join(b.Sender)+" "+string(rune('0'+len(b.To)))+" "+b.Date)
		}
		if got := strings.Join(blocks, "; "); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.header, got, tc.want)
		}
	}
	if f := facts(t, "Resent-From: "+strings.Repeat("a@b.c, ", MaxOriginators)+"a@b.c\nResent-To: x@y.z\nFrom: o@o.o\n\n"); len(f.ResentBlocks) != 0 {
		t.Errorf("got %d blocks of too many originators", len(f.ResentBlocks))
	}
}
