package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
)

// TestKeysFromURL: fetched at the first login, kept, fetched again for an unknown key but not for every one, and good for a while
// when the provider is gone.
func TestKeysFromURL(t *testing.T) {
	var now atomic.Int64
	tick := func(d time.Duration) { now.Add(int64(d)) }
	p := newProvider(t, text(500, ""))
	o := options(p.URL)
	o.Now = func() time.Time { return atNoon.Add(time.Duration(now.Load())) }
	a := oauthOf(t, o)
	token := func(alg jwa.SignatureAlgorithm, key string) error {
		c := goodClaims()
		c["exp"] = atNoon.Add(100 * time.Hour).Unix()
		_, err := a.Token(t.Context(), sign(t, alg, key, key, c))
		return err
	}
	want := func(what string, err, target error, asked int64) {
		t.Helper()
		if !errors.Is(err, target) || target == ErrCredentials && errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if n := p.asked.Load(); n != asked {
			t.Errorf("%s: asked %d times, want %d", what, n, asked)
		}
	}
	want("down at the start", token(jwa.RS256(), "rsa"), ErrUnavailable, 1)
	want("down, at once again", token(jwa.RS256(), "rsa"), ErrUnavailable, 1)
	p.says(text(200, keySetOf(t, "rsa")))
	tick(keysInterval)
	want("up", token(jwa.RS256(), "rsa"), nil, 2)
	want("kept", token(jwa.RS256(), "rsa"), nil, 2)
	want("unknown at once", token(jwa.ES256(), "ec"), ErrCredentials, 2)
	tick(keysInterval)
	want("unknown later", token(jwa.ES256(), "ec"), ErrCredentials, 3)
	for range 20 {
		want("unknown again and again", token(jwa.ES256(), "ec"), ErrCredentials, 3)
	}
	p.says(text(200, keySetOf(t, "rsa", "ec")))
	tick(keysInterval)
	want("a new key", token(jwa.ES256(), "ec"), nil, 4)
	p.says(text(200, keySetOf(t, "ec")))
	tick(keysFresh)
	want("a key was taken out", token(jwa.RS256(), "rsa"), ErrCredentials, 5)
	p.says(text(503, ""))
	tick(keysFresh)
	want("down, the old keys", token(jwa.ES256(), "ec"), nil, 6)
	want("down, an unknown key", token(jwa.RS256(), "rsa"), ErrUnavailable, 6)
	tick(keysStale)
	want("down for too long", token(jwa.ES256(), "ec"), ErrUnavailable, 7)
}

// TestSlowKeyServer: while one login waits for newer keys, others go on with the old ones.
func TestSlowKeyServer(t *testing.T) {
	var now atomic.Int64
	p := newProvider(t, text(200, keySetOf(t, "rsa")))
	o := options(p.URL)
	o.Timeout = 30 * time.Second
	o.Now = func() time.Time { return atNoon.Add(time.Duration(now.Load())) }
	a := oauthOf(t, o)
	c := goodClaims()
	c["exp"] = atNoon.Add(3 * keysFresh).Unix()
	token := sign(t, jwa.RS256(), "rsa", "rsa", c)
	if _, err := a.Token(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	p.says(func(http.ResponseWriter, *http.Request) { close(entered); <-release })
	now.Add(int64(keysFresh))
	first := make(chan error, 1)
	go func() {
		_, err := a.Token(t.Context(), token)
		first <- err
	}()
	<-entered
	for range 10 {
		if _, err := a.Token(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
	close(release)
	if err := <-first; err != nil { // what came was no key set, and the old one is still good
		t.Error(err)
	}
}

// TestLyingKeyServers: a response that is not a key set lets nobody log in, and the program goes on.
func TestLyingKeyServers(t *testing.T) {
	private, err := jwk.Import(signers()["rsa"])
	if err != nil {
		t.Fatal(err)
	}
	private.Set(jwk.KeyIDKey, "rsa")
	secret, _ := json.Marshal(private)
	elsewhere := newProvider(t, text(200, keySetOf(t, "rsa")))
	release := make(chan struct{})
	for name, h := range map[string]http.HandlerFunc{
		"HTML":          text(200, "<html>Sign in</html>"),
		"empty":         text(200, ""),
		"no keys":       text(200, `{"keys":[]}`),
		"null":          text(200, "null"),
		"symmetric":     text(200, `{"keys":[{"kty":"oct","kid":"rsa","k":"c2VjcmV0"}]}`),
		"private":       text(200, `{"keys":[`+string(secret)+`]}`),
		"weird":         text(200, `{"keys":[{"kty":"QQ","kid":"rsa"}]}`),
		"cut":           text(200, keySetOf(t, "rsa")[:200]),
		"other status":  text(203, keySetOf(t, "rsa")),
		"redirect":      func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) },
		"endless":       func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxAnswer+1)) },
		"too many":      text(200, `{"keys":[`+strings.Repeat(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},`, 300)+`{}]}`),
		"slow":          func(_ http.ResponseWriter, r *http.Request) { <-release },
		"slow to end":   func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{"); w.(http.Flusher).Flush(); <-release },
		"breaks it off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(newProvider(t, h).URL)
			o.Timeout = 30 * time.Second
			if strings.HasPrefix(name, "slow") {
				o.Timeout = 100 * time.Millisecond
				defer func() { release <- struct{}{} }()
			}
			id, err := oauthOf(t, o).Token(t.Context(), sign(t, jwa.RS256(), "rsa", "rsa", goodClaims()))
			if err == nil || id.Login != "" {
				t.Fatalf("%+v, %v", id, err)
			}
			if name != "weird" && !errors.Is(err, ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	if elsewhere.asked.Load() > 0 {
		t.Error("a redirect was followed")
	}
}

// TestKeysFromFile: read at the start and again on request; a broken one changes nothing.
func TestKeysFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenOAuth(options(path)); err == nil {
		t.Error("a missing file was opened")
	}
	write(keySetOf(t, "rsa"))
	a := oauthOf(t, options(path))
	if !slices.Equal(a.Paths(), []string{path}) {
		t.Error(a.Paths())
	}
	check := func(alg jwa.SignatureAlgorithm, key string, want error) {
		t.Helper()
		if _, err := a.Token(t.Context(), sign(t, alg, key, key, goodClaims())); !errors.Is(err, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
	check(jwa.RS256(), "rsa", nil)
	write("{")
	if err := a.Reload(); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	check(jwa.RS256(), "rsa", nil)
	write(keySetOf(t, "ec"))
	if err := a.Reload(); err != nil {
		t.Error(err)
	}
	check(jwa.RS256(), "rsa", ErrCredentials)
	check(jwa.ES256(), "ec", nil)
}

// TestKeysForOtherUses: a key verifies tokens only if the set says nothing of its use, or that it is for that (RFC 7517 §4.2 to §4.4).
func TestKeysForOtherUses(t *testing.T) {
	for name, c := range map[string]struct {
		field string
		value any
		good  bool
	}{
		"says nothing":       {good: true},
		"use sig":            {"use", "sig", true},
		"use enc":            {"use", "enc", false},
		"key_ops verify":     {"key_ops", []string{"verify"}, true},
		"key_ops and others": {"key_ops", []string{"encrypt", "verify"}, true},
		"key_ops encrypt":    {"key_ops", []string{"encrypt"}, false},
		"key_ops sign":       {"key_ops", []string{"sign"}, false},
		"alg":                {"alg", "RS256", true},
		"alg of another":     {"alg", "RS512", false},
		"alg for encryption": {"alg", "RSA-OAEP", false},
	} {
		t.Run(name, func(t *testing.T) {
			var set struct {
				Keys []object `json:"keys"`
			}
			if err := json.Unmarshal([]byte(keySetOf(t, "rsa")), &set); err != nil {
				t.Fatal(err)
			}
			if c.field != "" {
				set.Keys[0][c.field] = c.value
			}
			text, err := json.Marshal(set)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "keys.json")
			write(t, path, string(text))
			for _, kid := range []string{"rsa", ""} {
				id, err := oauthOf(t, options(path)).Token(t.Context(), sign(t, jwa.RS256(), "rsa", kid, goodClaims()))
				if c.good && err != nil || !c.good && (!errors.Is(err, ErrCredentials) || id.Login != "") {
					t.Errorf("kid %q: %+v, %v", kid, id, err)
				}
			}
		})
	}
}

// TestTwoKeysFit: a token without a key id is refused if two keys fit its algorithm, and accepted if it names one of them.
func TestTwoKeysFit(t *testing.T) {
	var set struct {
		Keys []object `json:"keys"`
	}
	err := json.Unmarshal([]byte(keySetOf(t, "rsa")), &set)
	second := maps.Clone(set.Keys[0])
	second["kid"] = "second"
	text, err2 := json.Marshal(object{"keys": append(set.Keys, second)})
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.json")
	write(t, path, string(text))
	for kid, good := range map[string]bool{"rsa": true, "second": true, "": false} {
		_, err := oauthOf(t, options(path)).Token(t.Context(), sign(t, jwa.RS256(), "rsa", kid, goodClaims()))
		if (err == nil) != good || !good && !errors.Is(err, ErrCredentials) {
			t.Errorf("kid %q: %v", kid, err)
		}
	}
}
