package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// rfc7677 is the verifier of the example in RFC 7677 §3: user "user", password "pencil".
const rfc7677 = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

// TestScramVerifier: the example of the RFC, and what we make ourselves; and what is refused, by a word of why.
func TestScramVerifier(t *testing.T) {
	made, err := HashScram(rand.Reader, "pass wörd")
	if err != nil {
		t.Fatal(err)
	}
	for verifier, password := range map[string]string{rfc7677: "pencil", made: "pass wörd"} {
		h, err := parseHash(verifier, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if h.(*scramHash).String() != verifier {
			t.Errorf("%s is written as %s", verifier, h)
		}
		if !h.matches([]byte(password)) || h.matches([]byte(password+"s")) || h.decoy().matches([]byte(password)) {
			t.Errorf("%s: matches", verifier)
		}
	}
	// SASLprep: clients send what RFC 4013 makes of it.
	if h, _ := parseHash(made, 1<<20); !h.matches([]byte("pass\u00a0wörd")) {
		t.Error("a no-break space is not a space")
	}
	if _, err := HashScram(rand.Reader, "tab\there"); err == nil || !strings.Contains(err.Error(), "SASLprep") {
		t.Error(err)
	}
	if _, err := HashScram(bytes.NewReader(nil), "pencil"); err == nil {
		t.Error("a salt without random bytes")
	}
	salt, key := "W22ZaJ0SNY7soEsUEjb6gQ==", "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
	for bad, why := range map[string]string{
		"SCRAM-SHA-1$4096:" + salt + "$" + key + ":" + key:            "only SCRAM-SHA-256",
		"{SCRAM-SHA-256}4096," + salt + "," + key + "," + key:         "only SCRAM-SHA-256",
		"SCRAM-SHA-256$4096:" + salt + "$" + key:                      "was it cut",
		"SCRAM-SHA-256$4096:" + salt:                                  "was it cut",
		"SCRAM-SHA-256$":                                              "was it cut",
		"SCRAM-SHA-256$4096:" + salt + "$" + key + ":" + key + "$x":   "was it cut",
		"SCRAM-SHA-256$4095:" + salt + "$" + key + ":" + key:          "4095 iterations",
		"SCRAM-SHA-256$99999999:" + salt + "$" + key + ":" + key:      "99999999 iterations",
		"SCRAM-SHA-256$04096:" + salt + "$" + key + ":" + key:         "plain number",
		"SCRAM-SHA-256$4e3:" + salt + "$" + key + ":" + key:           "plain number",
		"SCRAM-SHA-256$-1:" + salt + "$" + key + ":" + key:            "-1 iterations",
		"SCRAM-SHA-256$4096:$" + key + ":" + key:                      "salt has 0 bytes",
		"SCRAM-SHA-256$4096:" + salt + "$" + key[:40] + ":" + key:     "StoredKey has 30 bytes",
		"SCRAM-SHA-256$4096:" + salt + "$" + key + ":" + key[:43]:     "ServerKey is not base64",
		"SCRAM-SHA-256$4096:" + salt + "$" + key + ":" + key + "AAAA": "ServerKey is too long",
		"SCRAM-SHA-256$4096:!$" + key + ":" + key:                     "salt is not base64",
	} {
		h, err := parseHash(bad, 1<<20)
		if err == nil || h != nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v, %v", bad, h, err)
		}
	}
}

// TestScramVerifierOfGSASL: another's tool makes the same keys of the same salt.
func TestScramVerifierOfGSASL(t *testing.T) {
	testenv.NotShort(t, "gsasl")
	out, err := exec.Command("gsasl", "--mkpasswd", "--mechanism=SCRAM-SHA-256", "--password=pencil", "--iteration-count=10000").Output()
	if err != nil {
		t.Fatalf("gsasl is missing or fails: apt-get install gsasl: %v", err)
	}
	parts := strings.Split(strings.TrimPrefix(strings.TrimSpace(string(out)), "{SCRAM-SHA-256}"), ",")
	if len(parts) != 4 {
		t.Fatalf("gsasl says %q", out)
	}
	h, err := parseHash("SCRAM-SHA-256$"+parts[0]+":"+parts[1]+"$"+parts[2]+":"+parts[3], 1<<20)
	if err != nil || !h.matches([]byte("pencil")) || h.matches([]byte("pencils")) {
		t.Errorf("%q: %v", out, err)
	}
}

// TestStoredKeys: a users file offers SCRAM if all users have verifiers, and returns decoys for logins without one.
func TestStoredKeys(t *testing.T) {
	file := func(o FileOptions, lines ...string) *File {
		t.Helper()
		text := "users:\n  " + strings.Join(lines, "\n  ") + "\n"
		return open(t, text, o)
	}
	user := `user: {password: "` + rfc7677 + `", groups: [sales]}`
	bob := `bob: "$2a$04$mtoS01HgC3cX1wuX8qlr8unVg1A8w3lbaECn7wGXUU65ye30WwCOS"`
	for _, c := range []struct {
		scram ScramOffer
		lines []string
		want  bool
	}{
		{ScramAuto, []string{user}, true}, {ScramAuto, []string{user, bob}, false}, {ScramAuto, []string{bob}, false},
		{ScramOn, []string{user, bob}, true}, {ScramOn, []string{bob}, false}, {ScramOff, []string{user}, false},
	} {
		if got := slices.Contains(file(FileOptions{Scram: c.scram}, c.lines...).Mechanisms(), ScramSHA256); got != c.want {
			t.Errorf("%v with %q: %v", c.scram, c.lines, got)
		}
	}
	key := []byte("a key that outlives the process.")
	f := file(FileOptions{Scram: ScramOn, DecoyKey: key}, user, bob)
	keys := func(f *File, login string) StoredKeys {
		t.Helper()
		k, err := f.StoredKeys(t.Context(), login)
		if err != nil || len(k.Salt) != 16 || k.Iterations != 4096 || len(k.StoredKey) != 32 || len(k.ServerKey) != 32 {
			t.Fatalf("%s: %+v, %v", login, k, err)
		}
		return k
	}
	k := keys(f, "User")
	if !k.Known() || k.Identity.Login != "user" || k.Identity.Groups[0] != "sales" || base64.StdEncoding.EncodeToString(k.Salt) != "W22ZaJ0SNY7soEsUEjb6gQ==" {
		t.Errorf("%+v", k)
	}
	again := file(FileOptions{Scram: ScramOn, DecoyKey: key}, user)
	other := file(FileOptions{Scram: ScramOn}, user)
	for _, login := range []string{"bob", "mallory", "a b"} {
		one, two, three := keys(f, login), keys(again, login), keys(other, login)
		if one.Known() || two.Known() || !bytes.Equal(one.Salt, two.Salt) || bytes.Equal(one.Salt, three.Salt) || bytes.Equal(one.Salt, keys(f, login+"x").Salt) {
			t.Errorf("%s: %x, %x, %x", login, one.Salt, two.Salt, three.Salt)
		}
	}
	// In a chain, who knows the login speaks; who cannot serve is not asked.
	chain := Chain{file(FileOptions{}, bob), again, f}
	if k, err := chain.StoredKeys(t.Context(), "user"); err != nil || !k.Known() {
		t.Error(k, err)
	}
	if k, err := chain.StoredKeys(t.Context(), "mallory"); err != nil || k.Known() {
		t.Error(k, err)
	}
	if _, err := (Chain{chain[0]}).StoredKeys(t.Context(), "bob"); !errors.Is(err, ErrCredentials) {
		t.Error(err)
	}
	if got := chain.Mechanisms(); !slices.Equal(got, []string{Plain, LoginMech, ScramSHA256}) {
		t.Error(got)
	}
}
