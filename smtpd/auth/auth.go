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
	"errors"
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
