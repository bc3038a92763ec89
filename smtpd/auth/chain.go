package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
)

// Chain is a Backend that asks several backends in order. The first that accepts the password decides. If none does and one is
// unavailable, the error is ErrUnavailable, because that one might have accepted it.
type Chain []Backend

// Name implements Backend. It returns the names of all, joined by "+".
func (c Chain) Name() string {
	names := make([]string, len(c))
	for i, b := range c {
		names[i] = b.Name()
	}
	return strings.Join(names, "+")
}

// Password implements Backend. Backends are asked until one accepts the password, so that the time does not show which of them
// knows a login.
func (c Chain) Password(ctx context.Context, login, password string) (Identity, error) {
	failed := ErrCredentials
	for _, b := range c {
		id, err := b.Password(ctx, login, password)
		if err == nil {
			return id, nil
		}
		if !errors.Is(err, ErrCredentials) || errors.Is(err, ErrUnavailable) {
			failed = errors.Join(ErrUnavailable, err)
		}
	}
	return Identity{}, failed
}

// Mechanisms implements Offerer. It returns what at least one of the backends can serve now.
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

// serving returns the backends of type T that can serve mechanism now.
func serving[T Backend](c Chain, mechanism string) []T {
	var out []T
	for _, b := range c {
		if t, ok := b.(T); ok && slices.Contains(mechanisms(b), mechanism) {
			out = append(out, t)
		}
	}
	return out
}

// StoredKeys implements Verifier. It returns those of the first backend that knows the login.
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

// Hint implements Bearer. It returns that of the first backend that has one.
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

// worse returns the more important of two failures: ErrUnavailable before any other, and one with a reason before one without.
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
