package auth

import (
	"context"
	"errors"
	"testing"
)

// fixed answers every password the same.
type fixed struct {
	name string
	err  error
}

func (f fixed) Name() string { return f.name }

func (f fixed) Password(context.Context, string, string) (Identity, error) {
	return Identity{Login: "x", Backend: f.name}, f.err
}

func TestChain(t *testing.T) {
	no, yes, down := fixed{"no", ErrCredentials}, fixed{"yes", nil}, fixed{"down", errors.New("connection refused")}
	for name, c := range map[string]struct {
		chain Chain
		by    string
		err   error
	}{
		"first":                     {Chain{yes, no}, "yes", nil},
		"second":                    {Chain{no, yes}, "yes", nil},
		"none":                      {Chain{no, no}, "", ErrCredentials},
		"empty":                     {nil, "", ErrCredentials},
		"one is down, one says yes": {Chain{down, yes}, "yes", nil},
		"one is down, one says no":  {Chain{down, no}, "", ErrUnavailable},
		"the last is down":          {Chain{no, down}, "", ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := c.chain.Password(context.Background(), "x", "y")
			if !errors.Is(err, c.err) || id.Backend != c.by || c.err == ErrUnavailable && errors.Is(err, ErrCredentials) {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
	if n := (Chain{no, yes}).Name(); n != "no+yes" {
		t.Error(n)
	}
}
