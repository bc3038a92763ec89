package auth

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
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

// TestChainOfVerifiers: the keys are those of the backend that knows the login, wherever it stands in the chain. For a login that none
// knows they are always the same decoys.
func TestChainOfVerifiers(t *testing.T) {
	open := func(login string) *File {
		path := filepath.Join(t.TempDir(), "users.yaml")
		write(t, path, "users: {"+login+": '"+rfc7677+"'}\n")
		f, err := OpenFile(path, FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	chain := Chain{open("alice"), open("bob")}
	for _, login := range []string{"alice", "bob"} {
		if k, err := chain.StoredKeys(t.Context(), login); err != nil || k.Identity.Login != login {
			t.Errorf("%s: %+v, %v", login, k.Identity, err)
		}
	}
	first, err := chain.StoredKeys(t.Context(), "mallory")
	again, err2 := chain.StoredKeys(t.Context(), "mallory")
	if err != nil || err2 != nil || first.Known() || !bytes.Equal(first.Salt, again.Salt) {
		t.Errorf("a login that none knows: %+v, %+v, %v, %v", first, again, err, err2)
	}
}
