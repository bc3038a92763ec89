package bundles

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/keys"
)

// Verification accepts only bundles that `opa sign` or `opa build` signed with one of its keys. A bundle without a signature is
// refused. The files of the keys are read again for each candidate.
type Verification struct {
	Keys map[string]Key // by the key id that a signature may name
	// Scope is the scope that the signature must have; "": it must have none.
	Scope string
	// Exclude are patterns (path.Match) of files that are not compared with the signature.
	Exclude []string
}

// Key is a key that verifies signatures.
type Key struct {
	File      string // PEM of a public key or a certificate; for HS256, HS384 and HS512 the secret, which is the whole file
	Algorithm string // such as RS256, ES256, HS256; "": RS256. The algorithm that a signature names is not used
}

// Check reads the key and checks that it fits its algorithm. The error is a *LoadError.
func (k Key) Check() error {
	_, err := k.config()
	return err
}

func (k Key) config() (*keys.Config, error) {
	algorithm := cmp.Or(k.Algorithm, "RS256")
	if !keys.IsSupportedAlgorithm(algorithm) {
		return nil, &LoadError{Source: k.File, Message: fmt.Sprintf("there is no algorithm %s", algorithm), Hint: "RS256, PS256, ES256, HS256, and each with 384 or 512"}
	}
	text, err := readSmall(k.File, maxPEM)
	if err != nil {
		return nil, err
	}
	if problem, hint := badKey(text, algorithm); problem != "" {
		return nil, &LoadError{Source: k.File, Message: problem, Hint: hint}
	}
	return &keys.Config{Key: string(text), Algorithm: algorithm}, nil
}

// badKey returns why a key does not fit its algorithm; "" if it fits.
func badKey(text []byte, algorithm string) (problem, hint string) {
	block, _ := pem.Decode(text)
	if strings.HasPrefix(algorithm, "HS") {
		switch {
		case block != nil:
			// As an HMAC secret, a public key would let everyone who has it sign (RFC 8725 §2.1).
			return algorithm + " takes a secret, and this is a " + strings.ToLower(block.Type), "for a public key write algorithm: RS256, PS256 or ES256"
		case len(bytes.TrimSpace(text)) < 32:
			return "the secret is shorter than 32 bytes", "make one with: openssl rand -hex 32"
		}
		return "", ""
	}
	if block == nil {
		return "holds no public key", "it must be PEM: openssl rsa -in key.pem -pubout -out pub.pem"
	}
	if strings.Contains(block.Type, "PRIVATE KEY") {
		return "is a private key", "only its public half belongs here: openssl pkey -in key.pem -pubout -out pub.pem"
	}
	public, err := publicKey(block)
	if err != nil {
		return fmt.Sprintf("holds no public key: %v", err), "make one with: openssl pkey -in key.pem -pubout -out pub.pem"
	}
	return badPublicKey(public, algorithm)
}

func badPublicKey(public any, algorithm string) (problem, hint string) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		switch {
		case strings.HasPrefix(algorithm, "ES"):
			return "is an RSA key, and " + algorithm + " takes an elliptic curve", "write algorithm: RS256"
		case key.N.BitLen() < 2048:
			return fmt.Sprintf("is an RSA key of %d bits", key.N.BitLen()), "make one of 2048 bits or more"
		}
	case *ecdsa.PublicKey:
		want := map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[key.Curve.Params().BitSize]
		if want != algorithm {
			return "is a key on the curve " + key.Curve.Params().Name + ", which is not for " + algorithm, "write algorithm: " + cmp.Or(want, "ES256, and use a key on P-256")
		}
	default:
		return "is a key of a kind that cannot sign bundles", "use RSA or an elliptic curve"
	}
	return "", ""
}

func publicKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("PEM of type %s", block.Type)
}

const signaturesFile = ".signatures.json"

// errSignature marks the errors of signatures, for errors.Is.
var errSignature = errors.New("signature")

// signed verifies the signature of a tree and returns the files that it covers, by name.
func (v *Verification) signed(tree *Tree) (map[string]bundle.FileInfo, error) {
	i := slices.IndexFunc(tree.Files, func(f File) bool { return f.Path == signaturesFile })
	if i < 0 {
		return nil, fault(signaturesFile, "is missing, so the bundle is not signed").because(errSignature).
			hint("sign it with: opa sign, or opa build --signing-key")
	}
	var all bundle.SignaturesConfig
	if err := json.Unmarshal(tree.Files[i].Data, &all); err != nil {
		return nil, fault(signaturesFile, "%v", err).because(errSignature)
	}
	if all.Plugin != "" && all.Plugin != "_default" { // `opa build` names OPA's own
		return nil, fault(signaturesFile, "names the plugin %s, which is not supported", shown(all.Plugin)).because(errSignature)
	}
	if len(all.Signatures) != 1 {
		return nil, fault(signaturesFile, "holds %d signatures; there must be exactly one", len(all.Signatures)).because(errSignature)
	}
	claims := claimsOf(all.Signatures[0])
	ids := slices.Sorted(maps.Keys(v.Keys))
	if _, known := v.Keys[claims.KeyID]; known {
		ids = []string{claims.KeyID}
	}
	var reasons []string
	for _, id := range ids {
		key, err := v.Keys[id].config()
		if err != nil {
			return nil, err
		}
		files, err := bundle.VerifyBundleSignature(all, bundle.NewVerificationConfig(map[string]*keys.Config{id: key}, id, v.Scope, nil))
		if err == nil {
			return files, nil
		}
		reasons = append(reasons, v.why(id, key.Algorithm, claims, err))
	}
	return nil, fault(signaturesFile, "no trusted key verifies the signature: %s", strings.Join(reasons, "; ")).because(errSignature)
}

// claims are what a signature says about itself. They are not verified, so they serve only to choose the key and to word
// messages.
type claims struct {
	Algorithm string `json:"alg"`
	Kid       string `json:"kid"`
	KeyID     string `json:"keyid"`
	Scope     string `json:"scope"`
}

func claimsOf(token string) (c claims) {
	for _, part := range strings.SplitN(token, ".", 3)[:min(2, strings.Count(token, ".")+1)] {
		if text, err := base64.RawURLEncoding.DecodeString(part); err == nil {
			_ = json.Unmarshal(text, &c) // if this fails, the verification fails, too
		}
	}
	c.KeyID = cmp.Or(c.Kid, c.KeyID)
	return c
}

// why returns a reason that says what to look at, for an error of OPA's verification.
func (v *Verification) why(id, algorithm string, c claims, err error) string {
	switch {
	case c.Algorithm != algorithm:
		return fmt.Sprintf("key %s is for %s, and the signature names %s", id, algorithm, shown(cmp.Or(c.Algorithm, "nothing")))
	case c.Scope != v.Scope && strings.Contains(err.Error(), "scope"):
		return fmt.Sprintf("the scope is %q and must be %q", shown(c.Scope), v.Scope)
	}
	return fmt.Sprintf("key %s does not verify it", id)
}

func (v *Verification) excludes(name string) bool {
	return slices.ContainsFunc(v.Exclude, func(pattern string) bool {
		match, _ := path.Match(pattern, name)
		return match
	})
}

// commonTop returns the directory that all names are under; "" if there is none.
func commonTop(signed map[string]bundle.FileInfo) string {
	top := ""
	for name := range signed {
		first, _, within := strings.Cut(name, "/")
		if !within || top != "" && first != top {
			return ""
		}
		top = first
	}
	return top
}
