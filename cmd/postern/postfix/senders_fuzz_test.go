package postfix

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/smtpd/auth"
)

// FuzzSenderMap: a login gets an address only if one entry of the Postfix table has both. Rights that are wider than in the table are
// reported, and an entry that cannot be converted is reported with its line.
func FuzzSenderMap(f *testing.F) {
	for _, s := range []string{
		"alice@example.com alice\n@example.com\tbob, carol\n", "# c\nalice@example.com\n  alice,\n# between\n  bob\n", "alice alice\n", "\"a b\"@example.com alice\n", "a@b@c d\n", "@ d\n", "a@b\n", " a@b c\n", "/x/ y\n", "if x\n", "a@b \xff\n",
		"A@B.example Alice\na@b.example bob\n", "a@b c\x00\n", "@b.example bob\na@b.example alice\n", "a@b ,,,\n", "a@b c\r\n d\r\n", "a\\@b c", "a@b \u00a0c d\u2028\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, wider, err := ReadSenderMap("map", data, []string{"Added.example"}, auth.Login)
		if err != nil {
			var all Problems
			if !errors.As(err, &all) || len(all) == 0 || out != nil {
				t.Fatalf("%q: %v %v", data, out, err)
			}
			for _, p := range all {
				if p.Line < 1 || p.Line > 1+strings.Count(string(data), "\n") || p.Message == "" || strings.ContainsAny(p.Error(), "\r\n\x1b") {
					t.Fatalf("%q: %q", data, p.Error())
				}
			}
			return
		}
		// Entries, put on a line each in another way.
		var entries [][]string
		for _, line := range strings.Split(string(data), "\n") {
			fields := strings.FieldsFunc(strings.TrimSpace(strings.TrimRight(line, "\r")), func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
			if text := strings.TrimSpace(line); text == "" || text[0] == '#' {
				continue
			}
			if n := len(entries); n > 0 && (line[0] == ' ' || line[0] == '\t') {
				entries[n-1] = append(entries[n-1], fields...)
				continue
			}
			entries = append(entries, fields)
		}
		owners := map[string][]string{}
		for _, e := range entries {
			key := strings.ToLower(e[0])
			if !strings.Contains(key, "@") {
				key += "@added.example"
			}
			for _, l := range e[1:] {
				login, _ := auth.Login(l)
				owners[key] = append(owners[key], login)
			}
		}
		n, given := 0, 0
		for login, addresses := range out {
			for _, a := range addresses {
				given++
				if !slices.Contains(owners[a], login) {
					t.Fatalf("%q gives %q to %q", data, a, login)
				}
				if at := strings.IndexByte(a, '@'); at > 0 && owners[a[at:]] != nil {
					for _, whole := range owners[a[at:]] {
						if !slices.Contains(owners[a], whole) && len(wider) == 0 {
							t.Fatalf("%q: %q has more than before, and nothing is said", data, whole)
						}
					}
				}
			}
		}
		for _, logins := range owners {
			slices.Sort(logins)
			n += len(slices.Compact(logins))
		}
		if n != given {
			t.Fatalf("%q: %d rights become %d: %v", data, n, given, out)
		}
	})
}
