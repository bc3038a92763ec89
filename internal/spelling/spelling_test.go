package spelling

import "testing"

func TestLogin(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"alice", "alice"}, {"Alice", "alice"}, {"ALICE@Example.COM", "alice@example.com"}, {"müller", "müller"}, {"mu\u0308ller", "müller"},
		{"MÜLLER", "mÜller"}, {"al\u0130ce", "al\u0130ce"}, {"\u212aevin", "kevin"},
		{"", ""}, {"alice ", ""}, {" alice", ""}, {"al ice", ""}, {"alice\u00a0", ""}, {"alice\x00", ""}, {"al\u200dice", ""}, {"al\u00adice", ""},
		{"alice\ufe0f", ""}, {"al\u034fice", ""}, {"ａlice", ""}, {"alice²", ""}, {"ⓐlice", ""}, {"ﬁona", ""}, {"al\xffice", ""},
	} {
		if got, ok := Login(tc.in); got != tc.want || ok != (tc.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tc.in, got, ok, tc.want)
		}
	}
	for login, want := range map[string]bool{"alice": true, "müller": true, "mÜller": false, "al\u0130ce": false} {
		if OneCase(login) != want {
			t.Errorf("%q: %v", login, !want)
		}
	}
}
