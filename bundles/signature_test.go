package bundles

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
)

// signer signs as `opa sign` does, with OPA's own code.
type signer struct {
	private, public []byte // PEM, or the secret
	algorithm       string
	key             Key
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return (&signer{
		private:   pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		public:    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		algorithm: "RS256",
	}).onDisk(t)
}

func newECSigner(t testing.TB) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return (&signer{
		private:   pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		public:    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		algorithm: "ES256",
	}).onDisk(t)
}

func newSecretSigner(t testing.TB, secret string) *signer {
	t.Helper()
	return (&signer{private: []byte(secret), public: []byte(secret), algorithm: "HS256"}).onDisk(t)
}

func (s *signer) onDisk(t testing.TB) *signer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, s.public, 0o600); err != nil {
		t.Fatal(err)
	}
	s.key = Key{File: file, Algorithm: s.algorithm}
	return s
}

func (s *signer) trusted() *Verification {
	return &Verification{Keys: map[string]Key{"release": s.key}}
}

// sign adds .signatures.json to files.
func (s *signer) sign(t testing.TB, files map[string]string, claims map[string]any) {
	t.Helper()
	s.signAs(t, files, claims, bundle.SHA256)
}

func (s *signer) signAs(t testing.TB, files map[string]string, claims map[string]any, hash bundle.HashingAlgorithm) {
	t.Helper()
	hasher, err := bundle.NewSignatureHasher(hash)
	if err != nil {
		t.Fatal(err)
	}
	delete(files, signaturesFile)
	var infos []bundle.FileInfo
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var value any = []byte(files[name])
		if bundle.IsStructuredDoc(name) {
			if err := util.Unmarshal([]byte(files[name]), &value); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := hasher.HashFile(value)
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, bundle.NewFile(name, hex.EncodeToString(sum), string(hash)))
	}
	dir := t.TempDir()
	keyFile, claimsFile := filepath.Join(dir, "key"), ""
	if err := os.WriteFile(keyFile, s.private, 0o600); err != nil {
		t.Fatal(err)
	}
	if claims != nil {
		claimsFile = filepath.Join(dir, "claims.json")
		text, _ := json.Marshal(claims)
		if err := os.WriteFile(claimsFile, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token, err := bundle.GenerateSignedToken(infos, bundle.NewSigningConfig(keyFile, s.algorithm, claimsFile), "")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(map[string]any{"signatures": []string{token}})
	files[signaturesFile] = string(text)
}

func signedFiles() map[string]string {
	return map[string]string{
		".manifest":            `{"revision": "s1", "roots": [""]}`,
		"postern/mail/a.rego":  module,
		"data.json":            `{"b": 1, "a": {"x": [1, 2.50, 1e3, "ü"]}}`,
		"more/data.yaml":       "limit: 17\nwhen: 2026-01-01\n",
		"README.md":            "about\n",
		"schemas/doc/data.yml": "a: b\n",
	}
}

// TestSignature changes what was signed, in every way, from a directory and from a tarball.
func TestSignature(t *testing.T) {
	rsaKey, other, ec, secret := newSigner(t), newSigner(t), newECSigner(t), newSecretSigner(t, strings.Repeat("s3cret", 8))
	cases := map[string]struct {
		by     *signer // nil: rsaKey
		claims map[string]any
		hash   bundle.HashingAlgorithm
		trust  func(*Verification)
		change func(map[string]string)
		want   []string // "": it is taken
	}{
		"untouched":        {},
		"elliptic curve":   {by: ec, trust: func(v *Verification) { v.Keys = map[string]Key{"ec": ec.key} }},
		"secret":           {by: secret, trust: func(v *Verification) { v.Keys = map[string]Key{"s": secret.key} }},
		"named key":        {claims: map[string]any{"keyid": "release"}, trust: func(v *Verification) { v.Keys["b"] = other.key }},
		"second key":       {trust: func(v *Verification) { v.Keys["a"] = other.key }},
		"default":          {trust: func(v *Verification) { v.Keys = map[string]Key{"x": {File: rsaKey.key.File}} }},
		"the wrong named":  {claims: map[string]any{"keyid": "a"}, trust: func(v *Verification) { v.Keys["a"] = other.key }, want: []string{".signatures.json", "key a does not verify it"}},
		"scope":            {claims: map[string]any{"scope": "production"}, trust: func(v *Verification) { v.Scope = "production" }},
		"wrong scope":      {claims: map[string]any{"scope": "staging"}, trust: func(v *Verification) { v.Scope = "production" }, want: []string{".signatures.json", `the scope is "staging" and must be "production"`}},
		"no scope":         {trust: func(v *Verification) { v.Scope = "production" }, want: []string{".signatures.json", `the scope is ""`}},
		"scope not asked":  {claims: map[string]any{"scope": "staging"}, want: []string{`the scope is "staging" and must be ""`}},
		"other key":        {by: other, want: []string{".signatures.json", "key release does not verify it"}},
		"other algorithm":  {by: ec, want: []string{"key release is for RS256, and the signature names ES256"}},
		"weak hash":        {hash: bundle.MD5, want: []string{".manifest: is signed by its MD5 only", "5 more errors"}},
		"strong hash":      {hash: bundle.SHA512},
		"unsigned":         {change: func(f map[string]string) { delete(f, signaturesFile) }, want: []string{".signatures.json: is missing, so the bundle is not signed"}},
		"tampered rule":    {change: func(f map[string]string) { f["postern/mail/a.rego"] += "\n" }, want: []string{"postern/mail/a.rego: is not what was signed"}},
		"tampered data":    {change: func(f map[string]string) { f["data.json"] = `{"b": 2, "a": {"x": [1, 2.50, 1e3, "ü"]}}` }, want: []string{"data.json: is not what was signed"}},
		"tampered YAML":    {change: func(f map[string]string) { f["more/data.yaml"] = "limit: 18\nwhen: 2026-01-01\n" }, want: []string{"more/data.yaml: is not what was signed"}},
		"tampered roots":   {change: func(f map[string]string) { f[".manifest"] = `{"revision": "s2", "roots": [""]}` }, want: []string{".manifest: is not what was signed"}},
		"tampered other":   {change: func(f map[string]string) { f["README.md"] += "!" }, want: []string{"README.md: is not what was signed"}},
		"rewritten data":   {change: func(f map[string]string) { f["data.json"] = "{\"a\": {\"x\": [1, 2.50, 1e3,\t\"ü\"]},\n\"b\": 1}" }},
		"added rule":       {change: func(f map[string]string) { f["postern/mail/b.rego"] = module }, want: []string{"postern/mail/b.rego: is not covered by the signature"}},
		"added other":      {change: func(f map[string]string) { f["notes.txt"] = "x" }, want: []string{"notes.txt: is not covered"}},
		"added hidden":     {change: func(f map[string]string) { f[".git/config"], f[".a.rego.swp"] = "x", "y" }},
		"missing rule":     {change: func(f map[string]string) { delete(f, "more/data.yaml") }, want: []string{"more/data.yaml: is covered by the signature, but is missing"}},
		"renamed rule":     {change: func(f map[string]string) { f["z.rego"] = f["postern/mail/a.rego"]; delete(f, "postern/mail/a.rego") }, want: []string{"z.rego: is not covered", "one more error"}},
		"excluded":         {trust: func(v *Verification) { v.Exclude = []string{"*.txt", "more/*"} }, change: func(f map[string]string) { f["notes.txt"], f["more/data.yaml"] = "x", "limit: 18\n" }},
		"excluded gone":    {trust: func(v *Verification) { v.Exclude = []string{"more/*"} }, change: func(f map[string]string) { delete(f, "more/data.yaml") }, want: []string{"more/data.yaml: is covered by the signature, but is missing"}},
		"no JSON":          {change: func(f map[string]string) { f[signaturesFile] = "x" }, want: []string{".signatures.json"}},
		"no token":         {change: func(f map[string]string) { f[signaturesFile] = `{"signatures": []}` }, want: []string{".signatures.json: holds 0 signatures"}},
		"two tokens":       {change: func(f map[string]string) { f[signaturesFile] = `{"signatures": ["a", "b"]}` }, want: []string{".signatures.json: holds 2 signatures"}},
		"plugin":           {change: func(f map[string]string) { f[signaturesFile] = `{"signatures": ["a"], "plugin": "mine"}` }, want: []string{"names the plugin mine"}},
		"nonsense":         {change: func(f map[string]string) { f[signaturesFile] = `{"signatures": ["..a"]}` }, want: []string{".signatures.json", "the signature names nothing"}},
		"key not there":    {trust: func(v *Verification) { v.Keys["release"] = Key{File: "/nowhere/key.pem"} }, want: []string{"/nowhere/key.pem: no such file"}},
		"public as secret": {by: confused(t, rsaKey), want: []string{"key release is for RS256, and the signature names HS256"}},
		"told it is none":  {change: stripAlgorithm(t), want: []string{"key release is for RS256, and the signature names none"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, by := signedFiles(), rsaKey
			if c.by != nil {
				by = c.by
			}
			hash := bundle.SHA256
			if c.hash != "" {
				hash = c.hash
			}
			by.signAs(t, files, c.claims, hash)
			if c.change != nil {
				c.change(files)
			}
			trusted := rsaKey.trusted()
			if c.trust != nil {
				c.trust(trusted)
			}
			for _, source := range []Source{Dir(tempDir(t, files)), Tarball(buildTarball(t, tarOf(files)...))} {
				l := &Loader{Source: source, Verify: trusted}
				got, err := l.Load(context.Background())
				if len(c.want) == 0 {
					if err != nil || got.Revision != "s1" {
						t.Errorf("%s: %v", source, err)
					}
					continue
				}
				var r *Refusal
				if !errors.As(err, &r) || r.Stage != StageSignature {
					t.Fatalf("%s: got %v, want a refusal of the signature", source, err)
				}
				for _, w := range c.want {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%s: got %v, want %s", source, err, w)
					}
				}
			}
		})
	}
}

// confused signs with the public key as if it were a secret: RFC 8725 §2.1.
func confused(t *testing.T, s *signer) *signer {
	t.Helper()
	return &signer{private: s.public, public: s.public, algorithm: "HS256"}
}

// stripAlgorithm puts a header that says "none" before a signature that is empty.
func stripAlgorithm(t *testing.T) func(map[string]string) {
	t.Helper()
	return func(files map[string]string) {
		var all bundle.SignaturesConfig
		if err := json.Unmarshal([]byte(files[signaturesFile]), &all); err != nil {
			t.Error(err)
		}
		parts := strings.Split(all.Signatures[0], ".")
		text, _ := json.Marshal(map[string]any{"signatures": []string{"eyJhbGciOiJub25lIn0." + parts[1] + "."}})
		files[signaturesFile] = string(text)
	}
}

// TestSignedElsewhere: `opa sign` of a directory from without names the directory in every path.
func TestSignedElsewhere(t *testing.T) {
	s := newSigner(t)
	outside := map[string]string{}
	for name, text := range signedFiles() {
		outside["policies/"+name] = text
	}
	s.sign(t, outside, nil)
	files := signedFiles()
	files[signaturesFile] = outside[signaturesFile]
	l := &Loader{Source: Dir(tempDir(t, files)), Verify: s.trusted()}
	if _, err := l.Load(context.Background()); err == nil || !strings.Contains(err.Error(), "files under policies/") || !strings.Contains(err.Error(), "cd DIRECTORY") {
		t.Errorf("got %v", err)
	}
}

// TestSignedByOPA reads what `opa build --signing-key` writes, and OPA's reader takes what we take.
func TestSignedByOPA(t *testing.T) {
	s := newSigner(t)
	keyFile := filepath.Join(t.TempDir(), "k.pem")
	if err := os.WriteFile(keyFile, s.private, 0o600); err != nil {
		t.Fatal(err)
	}
	files := signedFiles()
	s.sign(t, files, nil)
	stock := bundle.NewReader(strings.NewReader(string(packed(t, tarOf(files)...)))).
		WithBundleVerificationConfig(bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{"k": {Key: string(s.public), Algorithm: "RS256"}}, "k", "", nil))
	if _, err := stock.Read(); err != nil {
		t.Errorf("stock OPA refuses what these tests sign: %v", err)
	}
}

func TestKeys(t *testing.T) {
	s, ec := newSigner(t), newECSigner(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	smallPublic, _ := x509.MarshalPKIXPublicKey(&small.PublicKey)
	dir := tempDir(t, map[string]string{"rsa.pem": string(s.public), "private.pem": string(s.private), "ec.pem": string(ec.public), "short": "secret", "text": "no key",
		"long": strings.Repeat("x", 32), "bad.pem": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"small.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: smallPublic}))})
	for _, c := range []struct{ file, algorithm, want string }{
		{"rsa.pem", "", ""}, {"rsa.pem", "PS512", ""}, {"ec.pem", "ES256", ""}, {"long", "HS256", ""},
		{"rsa.pem", "HS256", "HS256 takes a secret, and this is a public key"},
		{"private.pem", "RS256", "is a private key"},
		{"private.pem", "HS256", "takes a secret"},
		{"rsa.pem", "ES256", "is an RSA key"},
		{"ec.pem", "RS256", "write algorithm: ES256"},
		{"ec.pem", "ES384", "write algorithm: ES256"},
		{"short", "HS256", "shorter than 32 bytes"},
		{"text", "RS256", "holds no public key"},
		{"bad.pem", "RS256", "holds no public key"},
		{"small.pem", "RS256", "1024 bits"},
		{"rsa.pem", "none", "there is no algorithm none"},
		{"missing", "", "no such file"},
	} {
		err := Key{File: filepath.Join(dir, c.file), Algorithm: c.algorithm}.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: got %v, want %q", c.file, c.algorithm, err, c.want)
		}
	}
}
