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
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Bounds of a hash in a users file. Beyond them, one line of the file could stop the server.
const (
	maxPasses     = 100     // t of argon2id
	maxLanes      = 16      // p of argon2id
	maxBcryptCost = 16      // about 4 s on a CPU of 2024
	maxWork       = 4 << 20 // m times t of argon2id in KiB: about 4 s
	minSalt       = 8       // bytes, RFC 9106 §3.1
	maxSalt       = 64
	minDigest     = 16
	maxDigest     = 64
)

// hash is one stored verifier.
type hash interface {
	// matches reports whether a password matches. It compares in constant time.
	matches(password []byte) bool
	// memory returns the memory that matches takes, in KiB.
	memory() uint32
	// kind returns a name that is the same for hashes of the same cost, such as "argon2id m=65536,t=3,p=4".
	kind() string
	// decoy returns a hash of the same kind that no password matches.
	decoy() hash
}

// parseHash reads a hash of a users file. maxMemory bounds the parameter m of argon2id, in KiB. Errors say what to write, and
// never quote the hash.
func parseHash(s string, maxMemory uint32) (hash, error) {
	switch {
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon2id(s, maxMemory)
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, scramPrefix):
		return parseScram(s)
	case strings.HasPrefix(s, "SCRAM-"), strings.HasPrefix(s, "{SCRAM-"):
		return nil, errors.New("only SCRAM-SHA-256 is supported; " + scramForm)
	case strings.HasPrefix(s, "$argon2i$"), strings.HasPrefix(s, "$argon2d$"):
		return nil, errors.New("argon2i and argon2d are not supported; use argon2id")
	case strings.HasPrefix(s, "{") && strings.Contains(s, "}$"):
		return nil, errors.New("a scheme in braces is not supported; write only the hash, from its first $")
	case strings.HasPrefix(s, "$"):
		return nil, errors.New("unknown kind of hash; a hash begins with $argon2id$, $2b$ (bcrypt) or SCRAM-SHA-256$")
	}
	return nil, errors.New("this is not a password hash")
}

// argon2id is a hash of RFC 9106.
type argon2id struct {
	m, t         uint32
	p            uint8
	salt, digest []byte
}

func (h argon2id) matches(password []byte) bool {
	got := argon2.IDKey(password, h.salt, h.t, h.m, h.p, uint32(len(h.digest)))
	return subtle.ConstantTimeCompare(got, h.digest) == 1
}

func (h argon2id) memory() uint32 { return h.m }

func (h argon2id) kind() string { return fmt.Sprintf("argon2id m=%d,t=%d,p=%d", h.m, h.t, h.p) }

// decoy keeps the salt and the lengths, so that its cost is the same. Its digest is the salt, repeated: a password for that would
// mean that argon2 has been inverted, and the caller refuses a match in any case.
func (h argon2id) decoy() hash {
	digest := make([]byte, len(h.digest))
	for i := range digest {
		digest[i] = h.salt[i%len(h.salt)]
	}
	h.digest = digest
	return h
}

// String returns the PHC string format, as the argon2 reference implementation writes it.
func (h argon2id) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.m, h.t, h.p,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.digest))
}

// parseArgon2id reads "$argon2id$v=19$m=65536,t=3,p=4$salt$digest": these parts in this order, numbers without leading zeros,
// base64 without padding and with zeros in unused bits.
func parseArgon2id(s string, maxMemory uint32) (hash, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 {
		return nil, errors.New("an argon2id hash has the form $argon2id$v=19$m=65536,t=3,p=4$salt$hash")
	}
	if parts[2] != "v=19" {
		return nil, errors.New("an argon2id hash must have the version v=19")
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return nil, errors.New("an argon2id hash needs m, t and p: m=65536,t=3,p=4")
	}
	var h argon2id
	var v [3]uint32
	for i, want := range []struct {
		name string
		max  uint32
	}{{"m=", maxMemory}, {"t=", maxPasses}, {"p=", maxLanes}} {
		digits, ok := strings.CutPrefix(params[i], want.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
			return nil, fmt.Errorf("an argon2id hash must have %s and a plain number", want.name)
		}
		if n < 1 || n > uint64(want.max) {
			return nil, fmt.Errorf("argon2id has %s%d and must have 1 to %d", want.name, n, want.max)
		}
		v[i] = uint32(n)
	}
	h.m, h.t, h.p = v[0], v[1], uint8(v[2])
	if h.m < 8*uint32(h.p) {
		return nil, errors.New("argon2id needs m of at least 8 times p (RFC 9106 section 3.1)")
	}
	if uint64(h.m)*uint64(h.t) > maxWork {
		return nil, fmt.Errorf("argon2id has m times t of %d; at most %d is allowed", uint64(h.m)*uint64(h.t), maxWork)
	}
	var err error
	if h.salt, err = decode64(parts[4], "salt", minSalt, maxSalt); err != nil {
		return nil, err
	}
	if h.digest, err = decode64(parts[5], "hash", minDigest, maxDigest); err != nil {
		return nil, err
	}
	return h, nil
}

func decode64(s, what string, lo, hi int) ([]byte, error) {
	return decodeIn(base64.RawStdEncoding, "without", s, "argon2id "+what, lo, hi)
}

// decodeIn decodes a part of a hash, of lo to hi bytes. what and padding name the part and the encoding in errors.
func decodeIn(enc *base64.Encoding, padding, s, what string, lo, hi int) ([]byte, error) {
	// The decoder would skip line ends. Values of a users file have none, but the parser does not depend on that.
	if len(s) > enc.EncodedLen(hi) || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("the %s is too long", what)
	}
	b, err := enc.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("the %s is not base64 %s padding; was it cut?", what, padding)
	}
	if len(b) < lo || len(b) > hi {
		return nil, fmt.Errorf("the %s has %d bytes and must have %d to %d; was it cut?", what, len(b), lo, hi)
	}
	return b, nil
}

// bcryptHash is a bcrypt string that has been checked.
type bcryptHash string

// matches uses only the first 72 bytes of the password, as all implementations of bcrypt do.
func (h bcryptHash) matches(password []byte) bool {
	return bcrypt.CompareHashAndPassword([]byte(h), password) == nil
}

func (h bcryptHash) memory() uint32 { return 4 }

func (h bcryptHash) kind() string { return "bcrypt " + string(h[4:6]) }

// decoy reverses the digest. The result looks like a hash, and its cost is the same.
func (h bcryptHash) decoy() hash {
	b := []byte(h)
	for i := 29; i < 59; i++ {
		b[i] = h[29+(i-29+7)%30]
	}
	return bcryptHash(b)
}

// parseBcrypt reads "$2b$12$" and 53 characters of salt and hash.
func parseBcrypt(s string) (hash, error) {
	const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	if len(s) != 60 || s[6] != '$' || strings.Trim(s[7:], alphabet) != "" {
		return nil, errors.New("a bcrypt hash has 60 characters, $2b$12$ and 53 more; was it cut?")
	}
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil {
		return nil, errors.New("the cost of a bcrypt hash must be a number of two digits")
	}
	if cost > maxBcryptCost {
		return nil, fmt.Errorf("bcrypt has a cost of %d; at most %d is allowed", cost, maxBcryptCost)
	}
	return bcryptHash(s), nil
}

// HashPassword makes a new argon2id hash with the second recommended parameters of RFC 9106 §4 (64 MiB, 3 passes), but with one
// lane, and with a salt of 16 bytes from random (crypto/rand.Reader). More lanes would make one login faster with the same work,
// and would let one guess of an unknown client take several processors from mail. One lane does not help an attacker, who runs
// guesses on all processors anyway.
func HashPassword(random io.Reader, password string) (string, error) {
	pw, ok := preparePassword(password)
	if !ok {
		return "", fmt.Errorf("a password must have 1 to %d bytes and no NUL", MaxPassword)
	}
	h := argon2id{m: 64 << 10, t: 3, p: 1, salt: make([]byte, 16)}
	if _, err := io.ReadFull(random, h.salt); err != nil {
		return "", fmt.Errorf("no random bytes for the salt: %w", err)
	}
	h.digest = argon2.IDKey(pw, h.salt, h.t, h.m, h.p, 32)
	return h.String(), nil
}

// Bounds of a SCRAM-SHA-256 verifier in a users file.
const (
	minIterations = 4096      // RFC 7677 §4
	maxIterations = 2_000_000 // about a second for PLAIN
	newIterations = 100_000   // of HashScram; the client does this work, and some clients are phones
)

// scramHash is a SCRAM verifier. It also serves PLAIN and LOGIN.
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

// decoy has the salt as its keys. A password for that would mean that SHA-256 has been inverted, and the caller refuses a match in
// any case.
func (h *scramHash) decoy() hash {
	key := sha256.Sum256(h.salt)
	return &scramHash{h.iterations, h.salt, key[:], key[:]}
}

// String returns the form of RFC 5803, as PostgreSQL writes it.
func (h *scramHash) String() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s%d:%s$%s:%s", scramPrefix, h.iterations, b64(h.salt), b64(h.storedKey), b64(h.serverKey))
}

const (
	scramPrefix = ScramSHA256 + "$"
	scramForm   = "a SCRAM verifier has the form SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
)

// deriveScram computes the keys of RFC 5802 §3. The password is normalised by SASLprep, as clients must do it. If SASLprep refuses
// the password, it is used unchanged, as clients do, too.
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
		return nil, errors.New("a SCRAM verifier must have a plain number of iterations before its salt")
	}
	if n < minIterations || n > maxIterations {
		return nil, fmt.Errorf("a SCRAM verifier has %d iterations and must have %d to %d", n, minIterations, maxIterations)
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

// HashScram makes a new SCRAM-SHA-256 verifier with a salt of 16 bytes from random (crypto/rand.Reader). Compared with a hash of
// HashPassword, it lets clients log in without sending the password, and makes guessing cheaper.
func HashScram(random io.Reader, password string) (string, error) {
	pw, ok := preparePassword(password)
	if !ok {
		return "", fmt.Errorf("a password must have 1 to %d bytes and no NUL", MaxPassword)
	}
	if _, err := stringprep.SASLprep.Prepare(string(pw)); err != nil {
		return "", errors.New("this password has characters that SASLprep (RFC 4013) does not allow, and SCRAM clients would send it in different forms; choose another")
	}
	salt := make([]byte, 16)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("no random bytes for the salt: %w", err)
	}
	h, err := deriveScram(string(pw), salt, newIterations)
	if err != nil {
		return "", err
	}
	return h.String(), nil
}
