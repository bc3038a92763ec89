// Package auth checks who is submitting mail. Each backend is a file:
//
//   - [File] is the users file. It holds argon2id (RFC 9106) and bcrypt hashes, and SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677).
//   - [OAuth] checks bearer tokens: JWTs by a key set (RFC 7519, RFC 8725), other tokens by asking the provider (RFC 7662).
//   - [Certificates] checks TLS client certificates (RFC 5280) by alternative name or fingerprint.
//   - [Dovecot], [LDAP] and [RADIUS] ask servers. [Cached] remembers what a slow backend has proved.
//
// The interfaces [Offerer], [Verifier], [Bearer] and [Certifier] are for backends that serve more than PLAIN and LOGIN.
// [Throttle] counts failures by address and by login, and slows further tries down. [RecentLogins] remembers who has logged in
// elsewhere, as a fact for policies; it does not authenticate clients.
//
// A password in plain text is held only for the time of its check. What is remembered of a successful check is a keyed hash,
// whose key never leaves the process.
//
// # Failing
//
// A users file with any mistake is refused as a whole, and the one before stays. A hash that cannot be read matches nothing.
// [ErrUnavailable] means that a password could not be checked, which does not count as a failed try: a check that gets no memory
// or time, a provider or server that is down, slow or sends nonsense, a certificate that no valid revocation list covers.
//
// # Goroutines
//
// Argon2 uses goroutines that end before the check returns. The HTTP client of an OAuth backend keeps some for idle connections,
// which end 90 seconds after the last use. Each connection to an LDAP server has two of the library, which end when it is closed:
// by its server, after an error, or by Close. [RecentLogins.Serve] runs on its caller's goroutine. Nothing else starts any.
package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/internal/spelling"
)

// ErrCredentials means a wrong login or password. The client gets 535 5.7.8 for both.
var ErrCredentials = errors.New("authentication credentials invalid")

// ErrUnavailable means that the backend cannot check the password now. The client gets 454 4.7.0.
var ErrUnavailable = errors.New("authentication backend unavailable")

// Identity is the result of a successful check: the login, and the backend that checked it.
type Identity struct {
	Login      string
	Backend    string
	Groups     []string
	Attributes map[string][]string
}

// Backend checks passwords. It is safe for concurrent use.
type Backend interface {
	// Name is the backend's name in facts and logs, such as "file".
	Name() string
	// Password checks the password of login. Errors wrap ErrCredentials or ErrUnavailable; any other error counts as
	// ErrUnavailable. An unknown login takes as much time as a known one.
	Password(ctx context.Context, login, password string) (Identity, error)
}

// Bounds of what a client may send, in bytes.
const (
	MaxLogin    = spelling.MaxLogin
	MaxPassword = 1024
)

// Login returns the canonical form of a login, as spelling.Login.
func Login(s string) (login string, ok bool) { return spelling.Login(s) }

// preparePassword returns the form of a password that is hashed: Unicode NFC (RFC 8265 §4.2.2), because keyboards send the same
// "ü" as one code point or as two. A password that is not UTF-8 is hashed unchanged. ok is false for a password that is empty,
// longer than MaxPassword, or holds a NUL, at which some bcrypt implementations stop reading.
func preparePassword(s string) (password []byte, ok bool) {
	if s == "" || len(s) > MaxPassword || strings.IndexByte(s, 0) >= 0 {
		return nil, false
	}
	if utf8.ValidString(s) {
		s = norm.NFC.String(s)
	}
	return []byte(s), true
}

// SASL mechanisms that a Backend can serve.
const (
	Plain       = "PLAIN"         // RFC 4616
	LoginMech   = "LOGIN"         // draft-murchison-sasl-login
	ScramSHA256 = "SCRAM-SHA-256" // RFC 7677; also stands for -PLUS, where the connection has a channel binding
	OAuthBearer = "OAUTHBEARER"   // RFC 7628
	XOAuth2     = "XOAUTH2"       // of Google and Microsoft, older than RFC 7628
	External    = "EXTERNAL"      // RFC 4422 appendix A
)

// Offerer is a Backend that serves other mechanisms than PLAIN and LOGIN, or not at all times.
type Offerer interface {
	Backend
	// Mechanisms returns the mechanisms that the backend can serve now.
	Mechanisms() []string
}

// Verifier is a Backend that serves SCRAM-SHA-256.
type Verifier interface {
	Offerer
	// StoredKeys returns the keys of login. For a login without keys it returns decoys, so that a client cannot find out who
	// is a user: always the same ones for a login, and no proof matches them. Errors are those of Backend.Password.
	StoredKeys(ctx context.Context, login string) (StoredKeys, error)
}

// Bearer is a Backend that serves OAUTHBEARER and XOAUTH2.
type Bearer interface {
	Offerer
	// Token checks a bearer token. Errors are those of Backend.Password, and ErrScope. None of them quotes the token.
	Token(ctx context.Context, token string) (Identity, error)
	// Hint returns the text for a client whose token was refused, which says where to get one (RFC 7628 §3.2.2).
	Hint() BearerHint
}

// Certifier is a Backend that serves EXTERNAL: it checks TLS client certificates.
type Certifier interface {
	Offerer
	// Certificate checks that a chain may log in as login. The client's own certificate comes first, and TLS has verified that
	// the client holds its key. If login is empty and the certificate names exactly one login, that one is taken. Errors are
	// those of Backend.Password.
	Certificate(ctx context.Context, login string, chain []*x509.Certificate) (Identity, error)
}

// ErrScope means that the token is valid, but not for sending mail. It also is an ErrCredentials.
var ErrScope = reason("the token lacks the scope")

// reason is an ErrCredentials that says what was wrong, for the log. It never holds a secret that a client sent.
type reason string

func (r reason) Error() string { return string(r) }

// Is reports that a reason is an ErrCredentials.
func (r reason) Is(target error) bool { return target == ErrCredentials }

// BearerHint tells a client how to get a token. Empty fields are left out.
type BearerHint struct {
	Scope     string // the scope that a token must have
	Discovery string // URL of an OpenID provider configuration
}

// StoredKeys are what a server stores of a password for SCRAM-SHA-256 (RFC 5802 §3). They can check a proof, and cannot make
// one.
type StoredKeys struct {
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
	Identity   Identity // whose keys they are; zero for decoys
}

// Known reports whether the keys belong to a user, and are not decoys.
func (k StoredKeys) Known() bool { return k.Identity.Login != "" }

type clientKey struct{}

// WithClient adds the client's address to ctx, for backends that pass it on or log it.
func WithClient(ctx context.Context, addr netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, addr.Unmap().WithZone(""))
}

// clientAddr returns the address of WithClient; invalid if there is none.
func clientAddr(ctx context.Context) netip.Addr {
	addr, _ := ctx.Value(clientKey{}).(netip.Addr)
	return addr
}

type trustKey struct{}

// WithTrust notes in ctx that the client's address has proved this login lately. Such a check does not wait behind those of
// unknown clients. It has no influence on the result.
func WithTrust(ctx context.Context) context.Context { return context.WithValue(ctx, trustKey{}, true) }

func isTrusted(ctx context.Context) bool { return ctx.Value(trustKey{}) != nil }
