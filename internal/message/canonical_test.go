package message

import (
	"net/mail"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for _, tc := range []struct{ value, want string }{
		// What every program reads alike stays as it is.
		{`alice@example.com`, ""},
		{`Alice P. Liddell <alice@example.com>`, ""},
		{`"Liddell, Alice (Sales/EMEA)" <alice@example.com>, bob@example.net`, ""},
		{`"Alice <3" <alice@example.com>`, ""},
		{`=?utf-8?Q?Bj=C3=B6rn?= <alice@example.com>`, ""},
		{`=?UTF-8?B?QmrDtnJu?= <alice@example.com>`, ""},
		{`Ալիս <alice@example.com>`, ""},
		{`"What =? Alice" <alice@example.com>`, ""},
		{`"alice smith"@example.com`, ""},
		// The rest is written again.
		{`alice@example.com (Cron Daemon)`, `Cron Daemon <alice@example.com>`},
		{`alice@example.com (=?utf-8?q?Bj=C3=B6rn?=)`, `=?utf-8?b?QmrDtnJu?= <alice@example.com>`},
		{`Alice (Sales) <alice@example.com>`, `Alice <alice@example.com>`},
		{`alice@example.com (a), (b) bob@example.net (c)`, `a <alice@example.com>, b <bob@example.net>`},
		{`"a\"b" <alice@example.com>`, `=?utf-8?b?YeKAnWI=?= <alice@example.com>`},
		{`"a\\b" <alice@example.com>`, `a/b <alice@example.com>`},
		{`"\A\l" <alice@example.com>`, `Al <alice@example.com>`},
		{`=?iso-8859-1?q?Bj=F6rn?= <alice@example.com>`, `=?utf-8?b?QmrDtnJu?= <alice@example.com>`},
		{`=?utf-8*en?q?Bob?= <alice@example.com>`, `Bob <alice@example.com>`},
		{`=?utf-8?q?Bob?=x <alice@example.com>`, `Bobx <alice@example.com>`},
		{`"=?utf-8?q?Bob?=" <alice@example.com>`, `Bob <alice@example.com>`},
		{`=?utf-8?q?a=22b=3Cc=3Ed=5Ce?= <alice@example.com>`, `=?utf-8?b?YeKAnWLigLlj4oC6ZC9l?= <alice@example.com>`},
		{`=?utf-8?q?open_=28?= <alice@example.com>`, `open <alice@example.com>`},
		{`=?utf-8?q?a=0D=0AX=3A_y?= <alice@example.com>`, `"aX: y" <alice@example.com>`},
		{`=?utf-8?b?QWw=?= =?utf-8?b?w6k=?= <alice@example.com>`, ""},
		{`=?utf-8?b?QWzD?= =?utf-8?b?qQ==?= <alice@example.com>`, `=?utf-8?b?QWzDqQ==?= <alice@example.com>`},
		{"\"a\u202eb\" <alice@example.com>", `ab <alice@example.com>`},
		{"\"\u0645\u06cc\u200c\u0645\" <alice@example.com>", ""},
		{"Bj\xf6rn <alice@example.com>", `=?utf-8?b?QmrDtnJu?= <alice@example.com>`},
		{`Al (x) <alice>`, `Al <alice@@>`},
		{`alice@example.com ()`, `<alice@example.com>`},
		{`"b@c (d@e)" <alice@example.com>`, `"b at c (d at e)" <alice@example.com>`},
	} {
		l, err := parseOriginators(tc.value, maxMailboxes)
		if err != nil {
			t.Errorf("%q: %v", tc.value, err)
			continue
		}
		if got := strings.Join(l.canonical(), "@@"); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.value, got, tc.want)
		}
	}
}

func TestEncodedWords(t *testing.T) {
	for _, tc := range []struct {
		s, want string
		fault   wordFault
	}{
		{"=?utf8?q?a?=", "a", 0},
		{"=?latin1?q?=E9?=", "é", 0},
		{"=?windows-1252?q?=80?=", "€", 0},
		{"=?koi8-r?B?4czJ08E=?=", "Алиса", 0},
		{"=?gb2312?B?sK7A9su/?=", "爱丽丝", 0},
		{"=?cp932?B?g1yDdA==?=", "ソフ", 0},
		{"=?hz-gb-2312?Q?~{0.~}?=", "爱", 0},
		{"=?iso-2022-jp*ja?B?GyRCJSIbKEI=?=", "ア", 0},
		{"=?utf-8?Q?a b?=", "a b", 0},
		{"=?utf-8?q?a?= \t =?utf-8?q?b?= c =?utf-8?q?d?=", "ab c d", 0},
		{"=?utf-8?b?w6?= =?utf-8?b?k?=", "\ufffd", wordMalformed | wordUndecodable},
		{"=?utf-8?b?YQ?=", "a", 0},
		{"=?utf-8?b?Y-Q=?=", "a", wordMalformed},
		{"=?utf-8?b?YQ==YQ==?=", "a\x06\x10", wordMalformed},
		{"=?utf-8?q?=zz?=", "=zz", wordMalformed},
		{"=?utf-8?q?=41?=", "A", 0},
		{"=?utf-7?q?+AEA-?=", "+AEA-", wordUnknownCharset},
		{"=?nothing?q?a?=", "a", wordUnknownCharset},
		{"=?utf-8?q?=ff?=", "\ufffd", wordUndecodable},
		{"=?us-ascii?q?=e9?=", "\ufffd", wordUndecodable},
		{"=?gb18030?b?/w==?=", "\ufffd", wordUndecodable},
		{"=?utf-8?q?=3D=3Futf-8=3Fq=3Fa=3F=3D?=", "=?utf-8?q?a?=", wordMalformed},
		{"=?utf-8?x?a?=", "=?utf-8?x?a?=", 0},
		{"=?utf-8?q?a", "=?utf-8?q?a", 0},
		{"=? what", "=? what", 0},
	} {
		if got, fault := decodeWords(tc.s); got != tc.want || fault != tc.fault {
			t.Errorf("%q: got %q and %d, want %q and %d", tc.s, got, fault, tc.want, tc.fault)
		}
	}
}

// FuzzCanonical holds that the canonical form has the same addresses as the field, for Postern and for net/mail, that it is canonical itself,
// can be written, and shows no address in a name.
func FuzzCanonical(f *testing.F) {
	for _, value := range []string{
		`alice@example.com (Cron Daemon)`, `"a\" <b@c.d> \"" <alice@example.com>`, `=?koi8-r?B?4czJ08E=?= <alice>, (x (y)) "b c"@d.e`, "Bj\xf6rn <a@b.c>",
		`=?utf-8?q?=40?=x =?iso-2022-jp?b?GyRCIXcbKEI=?= <a@b.c>`, "\"\u200d@\u202e\" <a@b.c>",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\r\n") {
			return // unfolded already
		}
		l, err := parseOriginators(value, maxMailboxes)
		if err != nil {
			return
		}
		pieces := l.canonical()
		if pieces == nil {
			return
		}
		written := strings.Join(pieces, "@example.org")
		if _, err := NewEdit(OpReplaceHeader, "From", 1, written, true); err != nil {
			t.Fatalf("%q gives %q: %v", value, written, err)
		}
		again, err := parseOriginators(written, maxMailboxes)
		if err != nil {
			t.Fatalf("%q gives %q: %v", value, written, err)
		}
		if more := again.canonical(); more != nil {
			t.Fatalf("%q gives %q, which gives %q", value, written, more)
		}
		standard, err := (&mail.AddressParser{}).ParseList(written)
		if err != nil || len(standard) != len(l.out.List) || len(again.out.List) != len(l.out.List) {
			t.Fatalf("%q gives %q: net/mail reads %v, %v", value, written, standard, err)
		}
		for i, m := range l.out.List {
			if m.Domain == "" {
				m.Domain = "example.org"
			}
			got := again.out.List[i]
			if got.Local != m.Local || got.Domain != m.Domain || !strings.EqualFold(standard[i].Address, m.Local+"@"+m.Domain) {
				t.Fatalf("%q gives %q: %+v instead of %+v, and net/mail reads %q", value, written, got, m, standard[i].Address)
			}
			if strings.Contains(got.Name, "@") {
				t.Fatalf("%q gives %q with an @ in a name", value, written)
			}
		}
	})
}
