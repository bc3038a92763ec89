// Package auth proves who is submitting. One file is one backend.
//
// File is the users file: argon2id (RFC 9106) and bcrypt hashes and SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677), checked whole
// when it is read, replaced whole when it is read again. OAuth is for bearer tokens: JWTs by key set (RFC 7519, RFC 8725), others
// by asking the provider (RFC 7662). Certificates is for TLS client certificates (RFC 5280), by alternative name or fingerprint.
// A Backend says by the add-on interfaces Offerer, Verifier, Bearer and Certifier what it can do beside passwords.
// Dovecot, LDAP and RADIUS ask servers; Cached remembers what a slow one has proved; RecentLogins, which proves nothing,
// remembers who has logged in elsewhere.
// Throttle counts failures by address and by login, and slows them down. Plain passwords are held only as long
// as a check lasts; what is remembered of a successful one is a keyed hash under a key that never leaves the process.
//
// What it does when things fail: a users file that has anything wrong with it is refused whole, and the table before it
// stays; a hash that cannot be read never authenticates anybody; a check that gets no memory or time ends in
// ErrUnavailable, which is not a failed try.
//
// A provider that is down, slow or talks nonsense is ErrUnavailable, too; so is a certificate about which no revocation list in
// date says anything.
//
// Argon2 runs its lanes on goroutines that end before the check returns. The HTTP client of an OAuth keeps some for idle
// connections, which end 90 seconds after the last use. Each connection to an LDAP server has two of the library's, which end when it is closed: by its server, after an error, or by Close. RecentLogins.Serve runs on its caller's.
// No other goroutine is started here.
package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// ErrCredentials: wrong login or password; the client is told 535 5.7.8 whichever it was.
var ErrCredentials = errors.New("authentication credentials invalid")

// ErrUnavailable: the backend cannot tell now; 454 4.7.0.
var ErrUnavailable = errors.New("authentication backend unavailable")

// Identity is who was proved, and by whom.
type Identity struct {
	Login      string
	Backend    string
	Groups     []string
	Attributes map[string][]string
}

// Backend checks passwords. It is safe for concurrent use.
type Backend interface {
	// Name for facts and logs: "file".
	Name() string
	// Password proves login by password. Errors wrap ErrCredentials or ErrUnavailable; any other error counts as the latter.
	// A login that the backend does not know costs as much time as one that it does.
	Password(ctx context.Context, login, password string) (Identity, error)
}

// Bounds of what a client may send, in octets.
const (
	MaxLogin    = 255
	MaxPassword = 1024
)

// Login is the canonical form of a login: Unicode NFC, ASCII letters in lower case, so that Alice and alice are one user.
// Letters beyond ASCII keep their case: their folding depends on the language. Not ok: empty, longer than MaxLogin, not
// UTF-8, or with control, format or white-space characters in it.
func Login(s string) (login string, ok bool) {
	if s == "" || len(s) > MaxLogin || !utf8.ValidString(s) {
		return "", false
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return "", false
		}
	}
	s = norm.NFC.String(s)
	if len(s) > MaxLogin {
		return "", false
	}
	s = strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
	return norm.NFC.String(s), true // a small letter may compose where its capital does not: J and a caron
}

// preparePassword is the form of a password that is hashed: Unicode NFC (RFC 8265 §4.2.2), because the same "ü" comes as one
// code point or as two depending on the keyboard. A password that is not UTF-8 is hashed as it is. Not ok: empty, longer
// than MaxPassword, or with a NUL, at which some bcrypt implementations stop reading.
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
	ScramSHA256 = "SCRAM-SHA-256" // RFC 7677; -PLUS with it, where the connection has a channel binding
	OAuthBearer = "OAUTHBEARER"   // RFC 7628
	XOAuth2     = "XOAUTH2"       // Google's and Microsoft's, older than RFC 7628
	External    = "EXTERNAL"      // RFC 4422 appendix A
)

// Offerer is a Backend that serves other mechanisms than PLAIN and LOGIN, or not always.
type Offerer interface {
	Backend
	// Mechanisms that it can serve now.
	Mechanisms() []string
}

// Verifier is a Backend that serves SCRAM-SHA-256.
type Verifier interface {
	Offerer
	// StoredKeys of login. For a login that has none they are made up: always the same ones, which no proof matches, so that
	// nobody learns who is a user. Errors are those of Backend.Password.
	StoredKeys(ctx context.Context, login string) (StoredKeys, error)
}

// Bearer is a Backend that serves OAUTHBEARER and XOAUTH2.
type Bearer interface {
	Offerer
	// Token proves who bears it. Errors are those of Backend.Password, and ErrScope; none of them quotes the token.
	Token(ctx context.Context, token string) (Identity, error)
	// Hint is what a client is told whose token was refused: where to get a better one (RFC 7628 §3.2.2).
	Hint() BearerHint
}

// Certifier is a Backend that serves EXTERNAL: it knows people by their TLS client certificates.
type Certifier interface {
	Offerer
	// Certificate proves login by a chain, the client's own certificate first, whose key the client has shown to hold. An
	// empty login is whoever the certificate names, if it names just one. Errors are those of Backend.Password.
	Certificate(ctx context.Context, login string, chain []*x509.Certificate) (Identity, error)
}

// ErrScope: the token is good, but not for sending mail. It is an ErrCredentials, too.
var ErrScope = reason("the token lacks the scope")

// reason is an ErrCredentials that says for the log what was wrong. It never holds what a client sent as a secret.
type reason string

func (r reason) Error() string { return string(r) }

// Is makes it an ErrCredentials.
func (r reason) Is(target error) bool { return target == ErrCredentials }

// BearerHint tells a client how to get a token. Empty fields are left out.
type BearerHint struct {
	Scope     string // that a token must have
	Discovery string // URL of an OpenID provider configuration
}

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

type clientKey struct{}

// WithClient tells backends who is asking, for those that look at the address or write it down.
func WithClient(ctx context.Context, addr netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, addr.Unmap().WithZone(""))
}

// clientAddr is invalid where nobody told.
func clientAddr(ctx context.Context) netip.Addr {
	addr, _ := ctx.Value(clientKey{}).(netip.Addr)
	return addr
}

type trustKey struct{}

// WithTrust tells backends that the client's address has proved this login lately: such a check need not wait behind those of
// strangers. It proves nothing.
func WithTrust(ctx context.Context) context.Context { return context.WithValue(ctx, trustKey{}, true) }

func isTrusted(ctx context.Context) bool { return ctx.Value(trustKey{}) != nil }
