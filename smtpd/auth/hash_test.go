package auth

import (
	"strings"
	"testing"
)

// TestVector is a hash that the argon2 reference implementation's own test suite has (version 0x13, m=2^8, t=2, p=1).
func TestVector(t *testing.T) {
	h, err := parseHash("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !h.matches([]byte("password")) || h.matches([]byte("passwore")) {
		t.Error("the reference implementation's hash is not understood")
	}
	// From the test suite of OpenBSD-style bcrypts: "U*U" under $2a$05$.
	h, err = parseHash("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !h.matches([]byte("U*U")) || h.matches([]byte("U*U*")) {
		t.Error("the bcrypt vector is not understood")
	}
}

func TestParseHash(t *testing.T) {
	const salt, digest = "c29tZXNhbHQ", "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	good := "$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + digest
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	cases := []struct{ name, hash, want string }{
		{"good", good, ""},
		{"as much memory as allowed", with("m=256", "m=1024"), ""},
		{"more memory than allowed", with("m=256", "m=1025"), "argon2id has m=1025 and must have 1 to 1024"},
		{"memory beyond 32 bits", with("m=256", "m=4294967296"), "must have m="},
		{"no memory", with("m=256", "m=0"), "must have 1 to"},
		{"negative", with("m=256", "m=-1"), "must have m="},
		{"leading zero", with("t=2", "t=02"), "must have t="},
		{"plus", with("t=2", "t=+2"), "must have t="},
		{"too many passes", with("t=2", "t=101"), "t=101"},
		{"too many lanes", with("p=1", "p=17"), "p=17"},
		{"less memory than lanes need", with("p=1", "p=16") + "", ""},
		{"m below 8p", with("m=256,t=2,p=1", "m=127,t=2,p=16"), "8 times p"},
		{"order", with("m=256,t=2", "t=2,m=256"), "must have m="},
		{"a key id", with("p=1", "p=1,keyid=aa"), "needs m, t and p"},
		{"old version", with("v=19", "v=16"), "version"},
		{"no version", with("v=19$", ""), "has the form"},
		{"argon2i", with("argon2id", "argon2i"), "use argon2id"},
		{"padding", good + "=", "not base64"},
		{"stray bits", with(salt, salt[:10]+"R"), "salt"},
		{"short salt", with(salt, "c29tZQ"), "salt has 4 bytes"},
		{"long salt", with(salt, strings.Repeat("AAAA", 30)), "salt is too long"},
		{"cut", good[:len(good)-25], "hash has"},
		{"line end", with(salt, salt[:4]+"\n"+salt[4:]), "too long"},
		{"a field more", good + "$x", "has the form"},
		{"url alphabet", with("/uIP", "_uIP"), "not base64"},
		{"crypt", "$6$salt$hash", "unknown kind"},
		{"dovecot", "{ARGON2ID}" + good, "braces"},
		{"plain", "secret", "not a password hash"},
		{"empty", "", "not a password hash"},
		{"bcrypt", "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", ""},
		{"bcrypt cut", "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe", "60 characters"},
		{"bcrypt bad letter", "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe=", "60 characters"},
		{"bcrypt dear", "$2y$17$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "cost of 17"},
		{"bcrypt no cost", "$2y$xx$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "cost"},
		{"bcrypt cheap", "$2y$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "cost"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h, err := parseHash(c.hash, 1024)
			switch {
			case c.want == "" && (err != nil || h == nil):
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || h != nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, %v; want %s", h, err, c.want)
			case err != nil && (strings.Contains(err.Error(), digest) || strings.Contains(err.Error(), "secret")):
				t.Errorf("the error quotes the hash: %v", err)
			}
		})
	}
	if _, err := parseHash(with("m=256,t=2", "m=1048576,t=5"), 1<<20); err == nil {
		t.Error("a hash of five gigabyte passes is allowed")
	}
}

// FuzzParseHash: what is accepted is within bounds and is written back as it came.
func FuzzParseHash(f *testing.F) {
	for _, s := range []string{
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "$argon2id$v=19$$$", "{CRYPT}$2y$", "$$$$$", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s, 1<<16)
		if (h == nil) == (err == nil) {
			t.Fatalf("hash %v and error %v", h, err)
		}
		switch h := h.(type) {
		case argon2id:
			if h.m > 1<<16 || h.t > maxPasses || h.p > maxLanes || h.p == 0 || len(h.salt) > maxSalt || len(h.digest) < minDigest || len(h.digest) > maxDigest {
				t.Errorf("out of bounds: %+v", h)
			}
			if h.String() != s {
				t.Errorf("%q is written back as %q", s, h)
			}
			if h.decoy().kind() != h.kind() {
				t.Error("the decoy is of another kind")
			}
		case bcryptHash:
			if _, err := parseHash(string(h.decoy().(bcryptHash)), 1<<16); err != nil {
				t.Errorf("the decoy of %q is no hash: %v", s, err)
			}
		}
	})
}
