package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/postern-mail/postern/internal/yamldoc"
)

const (
	fuzzDigest = "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	fuzzArgon  = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$" + fuzzDigest
	fuzzBcrypt = "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
)

// FuzzUsersFile checks that the users of a file are those that another YAML reader finds, with the same hashes, within the bounds; and
// that no finding about a broken file quotes a hash.
func FuzzUsersFile(f *testing.F) {
	for _, s := range []string{
		"users:\n  alice: \"HASH\"\n  bob: OTHER\n", "users:\n  carol: {password: \"HASH\", groups: [sales, staff], attributes: {phone: \"17\"}}\n",
		"users:\n  alice: HASH\n  Alice: OTHER\n", "users:\n  alice: HASH\n  alice: OTHER\n", "users:\n  \"a b\": HASH\n", "users:\n  alice: HASHx\n", "users:\n\talice: HASH\n", "users:\n  alice: 'HASH\n",
		"users: {alice: HASH, bob: 'OTHER'}\n", "users:\n  null: HASH\n  1: HASH\n  0x10: OTHER\n  true: OTHER\n  1e3: OTHER\n", "users:\n  \u00fcn\u00ef: HASH\n  u\u0308n\u00ef: OTHER\n", "users:\n  alice: |\n    HASH\n", "users:\n  ? alice\n  : HASH\n",
		"users:\n  alice: &a HASH\n  bob: *a\n", "users:\n  alice: !!str HASH\n", "---\nusers: {}\n---\nusers: {a: HASH}\n", "users:\n  alice: >-\n    HASH\n", "users:\n  carol: {groups: [a], groups: [b], password: HASH}\n", "users:\n  a: {password: }\n",
		"users:\n  alice: SCRAM-SHA-256$4096:c29tZXNhbHQ=$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "users:\n  a: HASH # x\n  'b': \"\\x24argon2id\"\n", "users: [a]\n", "user:\n", "\xef\xbb\xbfusers:\n  a: HASH\n",
	} {
		f.Add(strings.NewReplacer("HASH", fuzzArgon, "OTHER", fuzzBcrypt).Replace(s))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		var table *table
		doc, err := yamldoc.ParseSecret("users.yaml", []byte(text))
		if err == nil {
			table, err = buildTable(doc, 1<<16)
		}
		var found yamldoc.Findings
		if err != nil {
			if !errors.As(err, &found) || len(found) == 0 || table != nil {
				t.Fatalf("%T: %v", err, err)
			}
			for _, one := range found {
				if one.Problem == "" || strings.Contains(one.Detail(), fuzzDigest[:20]) {
					t.Fatalf("%q: it is said: %s", text, one.Detail())
				}
			}
			return
		}
		for login, u := range table.users {
			if same, ok := Login(login); !ok || same != login || u.hash == nil || table.decoy == nil {
				t.Fatalf("%q: login %q, hash %v", text, login, u.hash)
			}
			if len(u.groups) > maxGroups || len(u.attributes) > maxAttributes {
				t.Fatalf("%q: %d groups, %d attributes", text, len(u.groups), len(u.attributes))
			}
		}
		wantUsers(t, text, table)
	})
}

// TestUsersFileKeepsHashes: findings about a file that is not YAML, or about a hash without quotes that is split into keys at its commas,
// go to logs and terminals, so they must not contain any part of the hash.
func TestUsersFileKeepsHashes(t *testing.T) {
	for _, text := range []string{"users:\n\talice: " + fuzzArgon + "\n", "users:\n  alice: '" + fuzzArgon + "\n", "users:\n  alice: >-" + fuzzArgon + "\n", "users: {alice: " + fuzzArgon + "}\n", "users:\n  alice: {password: x, " + fuzzArgon + ": y}\n"} {
		path := filepath.Join(t.TempDir(), "users.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenFile(path, FileOptions{})
		var found yamldoc.Findings
		if !errors.As(err, &found) {
			t.Fatalf("%q: %v", text, err)
		}
		for _, f := range found {
			if strings.Contains(f.Detail(), fuzzDigest[:20]) || strings.Contains(f.Source, "$") {
				t.Errorf("it is said: %s", f.Detail())
			}
		}
	}
}

// wantUsers reads the file as OPA's reader of YAML does.
func wantUsers(t *testing.T, text string, table *table) {
	t.Helper()
	var theirs struct{ Users yaml.Node }
	if yaml.Unmarshal([]byte(text), &theirs) != nil {
		return // it is stricter
	}
	want := map[string]string{}
	for i := 0; i+1 < len(theirs.Users.Content); i += 2 {
		key, value := theirs.Users.Content[i], theirs.Users.Content[i+1]
		if value.Kind == yaml.MappingNode {
			for j := 0; j+1 < len(value.Content); j += 2 {
				if value.Content[j].Value == "password" {
					value = value.Content[j+1]
					break
				}
			}
		}
		login, _ := Login(key.Value)
		want[login] = strings.TrimSpace(value.Value) // of a block its line end, too
	}
	got := map[string]string{}
	for login, u := range table.users {
		switch h := u.hash.(type) {
		case argon2id:
			got[login] = h.String()
		case bcryptHash:
			got[login] = string(h)
		case *scramHash:
			got[login] = h.String()
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%q: read as %q, another reader has %q", text, got, want)
	}
}

// FuzzCertificateMap: who a certificate is is what stands in the map to another reader of YAML, under a key that stays the same.
func FuzzCertificateMap(f *testing.F) {
	for _, s := range []string{
		"certificates:\n  \"email:Alice@Example.com\": alice\n  \"dns:Host.example\": {login: printer, groups: [machines]}\n", "certificates:\n  \"uri:spiffe://example.com/printer\": printer\n",
		"certificates:\n  \"sha256:9F:86:D0:81:88:4c:7d:65:9a:2f:ea:a0:c5:5a:d0:15:a3:bf:4f:1b:2b:0b:82:2c:d1:5d:6c:15:b0:f0:0a:08\": scanner\n", "certificates:\n  \"dns:*.example\": a\n",
		"certificates:\n  \"email:a@b\": a\n  \"email:a@B\": b\n", "certificates:\n  cn:alice: alice\n", "certificates:\n  'uri::': x\n", "certificates: {'dns:a': {groups: [x]}}\n", "certificates:\n  email:@: a\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		doc, err := yamldoc.Parse("map.yaml", []byte(text))
		if err != nil {
			return
		}
		people, err := peopleOf(doc)
		if err != nil {
			return
		}
		var theirs struct{ Certificates yaml.Node }
		known := yaml.Unmarshal([]byte(text), &theirs) == nil
		if known && len(theirs.Certificates.Content) != 2*len(people) {
			t.Fatalf("%q: %d entries, another reader has %d", text, len(people), len(theirs.Certificates.Content)/2)
		}
		for key, p := range people {
			kind, value, _ := strings.Cut(key, ":")
			if again, problem := checkPersonKey(kind, value); again != key || problem != "" {
				t.Fatalf("%q: key %q becomes %q, %s", text, key, again, problem)
			}
			if same, ok := Login(p.login); !ok || same != p.login || len(p.groups) > maxGroups {
				t.Fatalf("%q: %q is %q", text, key, p.login)
			}
		}
		for i := 0; known && i < len(theirs.Certificates.Content); i += 2 {
			kind, value, _ := strings.Cut(theirs.Certificates.Content[i].Value, ":")
			key, _ := checkPersonKey(kind, value)
			if people[key] == nil {
				t.Fatalf("%q: nobody is %q", text, key)
			}
			if n := theirs.Certificates.Content[i+1]; n.Kind == yaml.ScalarNode {
				if login, _ := Login(n.Value); people[key].login != login {
					t.Fatalf("%q: %q is %q, to another reader %q", text, key, people[key].login, login)
				}
			}
		}
	})
}

// FuzzClaims: a token or an answer about one is one JSON object, and lets in whom it says, within the bounds of its claims as
// they are read without our reader.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{
		`{"iss":"https://idp","aud":["postern"],"email":"Alice@example.com","exp":2000000000,"iat":1,"groups":["a","b"],"scope":"mail smtp","dept":7}`, `{"iss":"https://idp","aud":"postern","email":"a","exp":1.9e9,"scp":["smtp"]}`,
		`{"email":"a"}}`, `{"email":"a"} {"email":"b"}`, `{"email":"a","email":"b","exp":9e99}`, `{"exp":"2000000000"}`, `{"exp":-1}`, `null`, `[]`, `{"aud":[[["postern"]]]}`, `{"email":"a@b","email_verified":"false","iss":"https://idp","aud":"postern","exp":2000000000,"scope":"smtp"}`,
		`{"email":"a\u0000b"}`, `{"nbf":3000000000,"exp":4000000000,"email":"a","iss":"https://idp","aud":"postern","scope":"smtp"}`, `{"exp":1e400}`, `{"EXP":2000000000,"Email":"a"}`,
	} {
		f.Add([]byte(s))
	}
	c := Claims{Issuer: "https://idp", Audience: []string{"postern"}, Scope: "smtp", Groups: "groups", Attributes: []string{"dept"}}
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, payload []byte) {
		set, err := parseClaims(payload)
		if (err == nil) != (json.Valid(payload) && bytes.HasPrefix(bytes.TrimLeft(payload, " \t\r\n"), []byte("{"))) {
			t.Fatalf("%q: %v", payload, err)
		}
		if err != nil {
			return
		}
		id, err := c.identity(set, "oauth", now, true)
		if err != nil {
			if !errors.Is(err, ErrCredentials) || id.Login != "" {
				t.Fatalf("%q: %v %v", payload, id, err)
			}
			return
		}
		var plain struct{ Claims map[string]any }
		if err := json.Unmarshal([]byte(`{"claims":`+string(payload)+`}`), &plain); err != nil {
			return // numbers beyond float64 in claims that are not used
		}
		p := plain.Claims
		email, _ := p["email"].(string)
		exp, _ := p["exp"].(float64)
		login, ok := Login(email)
		verified := p["email_verified"] == nil || p["email_verified"] == true || p["email_verified"] == "true"
		if _, there := p["email_verified"]; there && p["email_verified"] == nil {
			verified = false
		}
		if !ok || id.Login != login || p["iss"] != "https://idp" || !strings.Contains(string(payload), "postern") || exp <= float64(now.Unix())-61 || !verified {
			t.Fatalf("%q lets in %+v", payload, id)
		}
		if len(id.Groups) > maxGroups || len(id.Attributes["dept"]) > maxValues || len(id.Attributes) > 1 {
			t.Fatalf("%q: %+v", payload, id)
		}
	})
}

// FuzzKeySet: a key set that is taken has no private and no symmetric key in it, and not too many.
func FuzzKeySet(f *testing.F) {
	for _, s := range []string{
		`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1"}]}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}]}`,
		`{"keys":[{"kty":"oct","k":"AAAA"}]}`, `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`, `{"keys":[]}`, `{"keys":[{"kty":"XXX"}]}`, `[]`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`, `{"keys":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 8192 {
			return
		}
		set, err := parseKeys(data)
		if (set == nil) != (err != nil) {
			t.Fatalf("%q: %v %v", data, set, err)
		}
		if err != nil {
			return
		}
		if n := set.Len(); n < 1 || n > maxKeys {
			t.Fatalf("%q: %d keys", data, n)
		}
		for i := range set.Len() {
			key, _ := set.Key(i)
			text, err := json.Marshal(key)
			var fields map[string]any
			if err != nil || json.Unmarshal(text, &fields) != nil {
				t.Fatalf("%q: key %d: %v", data, i, err)
			}
			for _, private := range []string{"d", "p", "q", "k"} {
				if kty, _ := fields["kty"].(string); fields[private] != nil && slices.Contains([]string{"RSA", "EC", "OKP", "oct"}, kty) {
					t.Fatalf("%q: key %d is %s", data, i, text)
				}
			}
		}
	})
}

// FuzzNotice: a notice of a login elsewhere is an address, a space and a login, and is remembered as that or not at all; and
// however many come, no more are kept than may be.
func FuzzNotice(f *testing.F) {
	for _, s := range []string{"192.0.2.7 alice\n", "2001:db8::7 Alice@example.com", "::ffff:192.0.2.7 a\r\n", "fe80::1%eth0 a", "0.0.0.0 a", "192.0.2.7  a", "192.0.2.7 a b", "192.0.2.7", " a", "192.0.2.7 a\x00", "192.0.2.7 \u00fc\n\n", "1 a", "192.0.2.7 " + strings.Repeat("a", 256)} {
		f.Add([]byte(s))
	}
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &RecentLogins{Entries: 2, Now: func() time.Time { return now }}
		for _, other := range []string{"198.51.100.1 x", "198.51.100.2 x", string(b)} {
			err := r.notice([]byte(other))
			if len(r.last) > 2 {
				t.Fatalf("%d are kept", len(r.last))
			}
			ip, login, _ := strings.Cut(strings.TrimRight(other, "\r\n"), " ")
			addr, bad := netip.ParseAddr(ip)
			canonical, ok := Login(login)
			ok = ok && bad == nil && !addr.Unmap().WithZone("").IsUnspecified() && len(other) <= maxNotice
			got, _, known := r.Last(addr)
			if (err == nil) != ok || ok && (!known || got != canonical) || !ok && known && other == string(b) && got != "x" {
				t.Fatalf("%q: %v; known as %q", other, err, got)
			}
		}
	})
}

// FuzzLogin: the canonical form of a login is its own, and has nothing in it that cannot be seen.
func FuzzLogin(f *testing.F) {
	for _, s := range []string{"alice", "ALICE@Example.COM", "u\u0308n\u00ef", "J\u030c", "a b", "a\u200bb", "a\u00a0b", "\u212aelvin", "\u0130", "a\x00", "\xff", strings.Repeat("\u0344", 127), "\u1e9b\u0323"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		login, ok := Login(s)
		if !ok {
			if login != "" {
				t.Fatalf("%q: %q", s, login)
			}
			return
		}
		again, ok := Login(login)
		upper := login
		if len(s) == utf8.RuneCountInString(s) {
			upper, _ = Login(strings.ToUpper(s))
		}
		if !ok || again != login || upper != login || login == "" || len(login) > MaxLogin || strings.ContainsFunc(login, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }) {
			t.Fatalf("%q: %q, again %q, in capitals %q", s, login, again, upper)
		}
	})
}
