package message

import (
	"strconv"
	"strings"
	"testing"
)

// TestRecipients holds what real programs write into To, Cc and Reply-To. want lists what is read; a fault is marked by "!", an empty field by
// "empty", and a completion by its value.
func TestRecipients(t *testing.T) {
	for _, tc := range []struct{ value, want string }{
		{"bob@example.net", "bob@example.net"},
		{"Bob <bob@example.net>, carol@example.net", "Bob|bob@example.net carol@example.net"},
		{"undisclosed-recipients:;", ""},
		{"bob@example.net,", "bob@example.net !"},
		{", bob@example.net", "bob@example.net !"},
		{"bob@example.net,,carol@example.net", "bob@example.net carol@example.net !"},
		{"<@a.example,@b.example:bob@example.net>", "bob@example.net !"},
		{"< bob@example.net >", "bob@example.net !"},
		{"bob@example.net;", "bob@example.net !"},
		{"bob@example.net; carol@example.net", "bob@example.net carol@example.net !"},
		{"bob@example.net <bob@example.net>", "bob@example.net|bob@example.net !"},
		{`"bob@example.net" bob@example.net`, "bob@example.net|bob@example.net !"},
		{"", "empty !"}, {" ", "empty !"}, {"<>", "empty !"}, {",", "empty !"}, {"<>, <>;", "empty !"},
		{"[EXT] Bob <bob@example.net>", "[EXT] Bob|bob@example.net !"},
		{"Team: Sales <bob@example.net>", "Team: Sales|bob@example.net !"},
		{"Undisclosed recipients", " !"},
		{"<Undisclosed-Recipient:;>", " !"},
		{`"Bob <bob@example.net>`, "Bob|bob@example.net !"},
		{"<<bob@example.net>>", "bob@example.net !"},
		{`"Bob" <SMTP:bob@example.net>`, "Bob|bob@example.net !"},
		{"mailto:bob@example.net", "bob@example.net !"},
		{"Bob <MAILTO:bob@example.net>", "Bob|bob@example.net !"},
		{"noreply", "noreply completed: noreply@@"},
		{"noreply, Bob <bob@example.net>", "Bob|bob@example.net !"},
		{`noreply, "Bob" <bob@example.net>`, "noreply Bob|bob@example.net completed: noreply@@, \"Bob\" <bob@example.net>"},
		{"noreply, <bob@example.net>", "noreply bob@example.net completed: noreply@@, <bob@example.net>"},
		{"Smith, Bob <bob@example.net>", "Bob|bob@example.net !"},
		{"Smith, Jones, Bob <bob@example.net>, carol@example.net", "Bob|bob@example.net carol@example.net !"},
		{"carol@example.net, Smith, Bob <bob>", "carol@example.net Bob|bob !"},
		{"Smith, <bob>", "Smith bob completed: Smith@@, <bob@@>"},
		{strings.Repeat("a", 76) + "@example.net", strings.Repeat("a", 76) + "@example.net"},
		{"a..b@docomo.example", `"a..b"@docomo.example !`},
		{"<abc.@docomo.example>", `"abc."@docomo.example !`},
		{"x@my_host.example", "x@my_host.example !"},
		{"x@example.net.", "x@example.net !"},
		{"B\xf6b <bob@example.net>", "Böb|bob@example.net !"},
		{"Bob <b\xf6b@example.net>", "Bob|böb@example.net !"},
		{"=?iso-8859-1?q?B=F6b,?= <bob@example.net>", "?=|bob@example.net !"},
		{"Bob <bob@example.net> (x, y), carol@example.net", "Bob|bob@example.net carol@example.net"},
		{`"a, b" <bob@example.net>;"c;d" <carol@example.net>`, "a, b|bob@example.net c;d|carol@example.net !"},
		{"bob@example.net\x01", " !"},
	} {
		got := readRecipients(tc.value)
		var words []string
		for _, m := range got.list {
			word := m.Address()
			if m.Name != "" {
				word = m.Name + "|" + word
			}
			words = append(words, word)
		}
		if got.empty {
			words = append(words, "empty")
		}
		if got.pieces != nil {
			words = append(words, "completed: "+strings.Join(got.pieces, "@@"))
		}
		s := strings.Join(words, " ")
		if got.fault != nil {
			s += " !"
		}
		if s != tc.want {
			t.Errorf("%q: got %q, want %q (%v)", tc.value, s, tc.want, got.fault)
		}
	}
}

func TestManyRecipients(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		b.WriteString("p" + strconv.Itoa(i) + "@example.net, ")
	}
	value := strings.TrimSuffix(b.String(), ", ")
	if got := readRecipients(value); len(got.list) != 5000 || got.fault != nil {
		t.Errorf("%d, %v", len(got.list), got.fault)
	}
	if got := readRecipients(value + ","); len(got.list) != 5000 || got.fault == nil {
		t.Errorf("%d, %v", len(got.list), got.fault)
	}
}

// FuzzRecipients holds that a field without a fault is read as ParseAddresses reads it, that no recipient is invented, and that each one can be
// written.
func FuzzRecipients(f *testing.F) {
	for _, value := range []string{"bob@example.net;, <carol@example.net", `"Bob <bob@example.net>`, "Smith, Bob <bob@example.net>", "mailto:a@b, SMTP:<c@d>", "(", "a, b@c"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := readRecipients(value)
		for _, m := range got.list {
			wantMailbox(t, m)
			if m.Domain != "" && got.fault != nil && ascii(value) && !strings.Contains(lower(value), m.Domain) {
				t.Fatalf("%q: the domain of %+v is not there", value, m)
			}
		}
		a, err := ParseAddresses(value)
		switch {
		case err != nil && got.fault == nil && len(got.list) <= maxMailboxes && len(value) <= maxAddressField:
			t.Fatalf("%q was read strictly, and ParseAddresses says %v", value, err)
		case err == nil && got.fault == nil && len(a.List) != len(got.list):
			t.Fatalf("%q: %v instead of %v", value, got.list, a.List)
		case got.fault != nil && got.pieces != nil:
			t.Fatalf("%q would be completed", value)
		}
	})
}
