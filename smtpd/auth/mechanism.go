package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
)

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

// Mechanisms implements Offerer: all that one of the backends can serve now.
func (c Chain) Mechanisms() []string {
	var all []string
	for _, b := range c {
		for _, m := range mechanisms(b) {
			if !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	return all
}

func mechanisms(b Backend) []string {
	if o, ok := b.(Offerer); ok {
		return o.Mechanisms()
	}
	return []string{Plain, LoginMech}
}

// serving are the backends of type T that can serve mechanism now.
func serving[T Backend](c Chain, mechanism string) []T {
	var out []T
	for _, b := range c {
		if t, ok := b.(T); ok && slices.Contains(mechanisms(b), mechanism) {
			out = append(out, t)
		}
	}
	return out
}

// StoredKeys implements Verifier: those of the first backend that knows the login.
func (c Chain) StoredKeys(ctx context.Context, login string) (StoredKeys, error) {
	var decoy *StoredKeys
	failed := ErrCredentials
	for _, v := range serving[Verifier](c, ScramSHA256) {
		k, err := v.StoredKeys(ctx, login)
		switch {
		case err == nil && k.Known():
			return k, nil
		case err == nil && decoy == nil:
			decoy = &k
		case err != nil:
			failed = worse(failed, err)
		}
	}
	if decoy == nil || errors.Is(failed, ErrUnavailable) {
		return StoredKeys{}, failed
	}
	return *decoy, nil
}

// Token implements Bearer.
func (c Chain) Token(ctx context.Context, token string) (Identity, error) {
	failed := ErrCredentials
	for _, b := range serving[Bearer](c, OAuthBearer) {
		id, err := b.Token(ctx, token)
		if err == nil {
			return id, nil
		}
		failed = worse(failed, err)
	}
	return Identity{}, failed
}

// Hint implements Bearer: that of the first backend that has one.
func (c Chain) Hint() BearerHint {
	for _, b := range serving[Bearer](c, OAuthBearer) {
		if h := b.Hint(); h != (BearerHint{}) {
			return h
		}
	}
	return BearerHint{}
}

// Certificate implements Certifier.
func (c Chain) Certificate(ctx context.Context, login string, chain []*x509.Certificate) (Identity, error) {
	failed := ErrCredentials
	for _, b := range serving[Certifier](c, External) {
		id, err := b.Certificate(ctx, login, chain)
		if err == nil {
			return id, nil
		}
		failed = worse(failed, err)
	}
	return Identity{}, failed
}

// worse of two failures: that somebody could not tell outweighs every "no", and a reason outweighs none.
func worse(before, err error) error {
	switch {
	case !errors.Is(err, ErrCredentials) || errors.Is(err, ErrUnavailable):
		if errors.Is(before, ErrUnavailable) {
			return errors.Join(before, err)
		}
		return errors.Join(ErrUnavailable, err)
	case errors.Is(before, ErrUnavailable):
		return before
	case before == ErrCredentials:
		return err
	case err == ErrCredentials:
		return before
	}
	return errors.Join(before, err)
}
