package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/xdg-go/stringprep"
)

// Bounds of a SCRAM-SHA-256 verifier in a users file.
const (
	minIterations = 4096      // RFC 7677 §4
	maxIterations = 2_000_000 // about a second for PLAIN
	newIterations = 100_000   // of HashScram: the client does this work, and some clients are telephones
)

// StoredKeys are what a server keeps of a password for SCRAM-SHA-256 (RFC 5802 §3): enough to check a proof, not enough to
// make one.
type StoredKeys struct {
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
	Identity   Identity // of whom; zero where the keys are made up
}

// Known says that the keys are somebody's.
func (k StoredKeys) Known() bool { return k.Identity.Login != "" }

// scramHash is a verifier, which serves PLAIN and LOGIN as well.
type scramHash struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey []byte
}

func (h *scramHash) matches(password []byte) bool {
	got, err := deriveScram(string(password), h.salt, h.iterations)
	return err == nil && subtle.ConstantTimeCompare(got.storedKey, h.storedKey) == 1
}

func (h *scramHash) memory() uint32 { return 4 }

func (h *scramHash) kind() string { return fmt.Sprintf("SCRAM-SHA-256 i=%d", h.iterations) }

// decoy has the salt for its keys: what hashes to it would have to be found first, and the caller refuses a match all the same.
func (h *scramHash) decoy() hash {
	key := sha256.Sum256(h.salt)
	return &scramHash{h.iterations, h.salt, key[:], key[:]}
}

// String is the form of RFC 5803, as PostgreSQL writes it.
func (h *scramHash) String() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s%d:%s$%s:%s", scramPrefix, h.iterations, b64(h.salt), b64(h.storedKey), b64(h.serverKey))
}

const (
	scramPrefix = ScramSHA256 + "$"
	scramForm   = "a SCRAM verifier has the form SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
)

// deriveScram is RFC 5802 §3. The password is normalised as clients have to do it; where SASLprep refuses it, it is taken as it
// is, which is what they do as well.
func deriveScram(password string, salt []byte, iterations int) (*scramHash, error) {
	if prepared, err := stringprep.SASLprep.Prepare(password); err == nil && prepared != "" {
		password = prepared
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return nil, err
	}
	clientKey := hmacSHA256(salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	return &scramHash{iterations, salt, storedKey[:], hmacSHA256(salted, "Server Key")}, nil
}

func hmacSHA256(key []byte, parts ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		io.WriteString(mac, p)
	}
	return mac.Sum(nil)
}

// parseScram reads "SCRAM-SHA-256$100000:salt$StoredKey:ServerKey".
func parseScram(s string) (hash, error) {
	parts := strings.Split(strings.TrimPrefix(s, scramPrefix), "$")
	if len(parts) != 2 {
		return nil, errors.New(scramForm + "; was it cut?")
	}
	iterations, salt, ok := strings.Cut(parts[0], ":")
	stored, server, ok2 := strings.Cut(parts[1], ":")
	if !ok || !ok2 {
		return nil, errors.New(scramForm + "; was it cut?")
	}
	n, err := strconv.Atoi(iterations)
	if err != nil || strconv.Itoa(n) != iterations {
		return nil, errors.New("a SCRAM verifier has a plain number of iterations before its salt")
	}
	if n < minIterations || n > maxIterations {
		return nil, fmt.Errorf("a SCRAM verifier with %d iterations; from %d to %d are allowed", n, minIterations, maxIterations)
	}
	h := &scramHash{iterations: n}
	for _, f := range []struct {
		text, what string
		to         *[]byte
		lo, hi     int
	}{{salt, "salt", &h.salt, minSalt, maxSalt}, {stored, "StoredKey", &h.storedKey, 32, 32}, {server, "ServerKey", &h.serverKey, 32, 32}} {
		if *f.to, err = decodePadded(f.text, f.what, f.lo, f.hi); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func decodePadded(s, what string, lo, hi int) ([]byte, error) {
	return decodeIn(base64.StdEncoding, "with", s, "SCRAM "+what, lo, hi)
}

// HashScram makes a new SCRAM-SHA-256 verifier with a salt of 16 octets from random (crypto/rand.Reader). Unlike HashPassword,
// what it makes lets clients log in without sending the password, but is cheaper to guess at.
func HashScram(random io.Reader, password string) (string, error) {
	pw, ok := preparePassword(password)
	if !ok {
		return "", fmt.Errorf("a password has 1 to %d octets and no NUL", MaxPassword)
	}
	if _, err := stringprep.SASLprep.Prepare(string(pw)); err != nil {
		return "", errors.New("this password has characters that SASLprep (RFC 4013) does not allow, and SCRAM clients would send it in different forms; choose another")
	}
	salt := make([]byte, 16)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("no random octets for the salt: %w", err)
	}
	h, err := deriveScram(string(pw), salt, newIterations)
	if err != nil {
		return "", err
	}
	return h.String(), nil
}
