package auth

import (
	"context"
	"errors"
	"strings"
)

// Chain asks backends in order: the first that proves the password wins. Where none does and one of them could not tell, the
// answer is ErrUnavailable, because the password may have been right there.
type Chain []Backend

// Name implements Backend: the names, joined by "+".
func (c Chain) Name() string {
	names := make([]string, len(c))
	for i, b := range c {
		names[i] = b.Name()
	}
	return strings.Join(names, "+")
}

// Password implements Backend. Every backend is asked until one says yes, so that the time does not tell which one knows a
// login.
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
