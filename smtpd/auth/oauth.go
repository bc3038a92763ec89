package auth

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jws"
)

// Algorithms are the algorithms of JWT signatures that can be allowed, and defaultAlgorithms those that are by default. All are
// asymmetric, because key sets are public and a public key must not be able to sign (RFC 8725 §3.1).
var (
	Algorithms        = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	defaultAlgorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
)

// OAuthOptions configure an OAuth. Either Keys or Introspection is set.
type OAuthOptions struct {
	// Keys is a file or URL with a JSON Web Key Set, for tokens that are JWTs.
	Keys string
	// Algorithms are the allowed ones; empty: RS256, PS256, ES256, EdDSA.
	Algorithms []string
	// Introspection is the introspection URL (RFC 7662), for tokens that only the provider can read.
	Introspection          string
	ClientID, ClientSecret string // for Introspection

	Claims Claims
	Hint   string         // URL for BearerHint.Discovery
	Roots  *x509.CertPool // authorities of the provider's certificate; nil: the system's
	// Timeout of one request; 0: 5 s.
	Timeout time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets a record of each reload; nil: nothing is logged.
	Logger *slog.Logger
}

// OAuth is a Backend for OAuth 2.0 bearer tokens. It remembers no tokens. Make one with OpenOAuth; it is safe for concurrent use.
type OAuth struct {
	options OAuthOptions
	keys    *keySet // nil: introspection
	fetch   *fetcher
	slots   chan struct{} // bounds the introspections under way
}

// OpenOAuth checks the options, and reads a key set that is a file. A key set at a URL is fetched at the first login, so that the
// server starts while the provider is down.
func OpenOAuth(o OAuthOptions) (*OAuth, error) {
	if (o.Keys == "") == (o.Introspection == "") {
		return nil, errors.New("OAuth needs either a key set or an introspection URL")
	}
	if o.Keys != "" && (o.Claims.Issuer == "" || len(o.Claims.Audience) == 0) {
		return nil, errors.New("OAuth with a key set needs issuer and audience; without them a token for another service would be accepted")
	}
	for _, u := range []string{o.Keys, o.Introspection} {
		if remote(u) {
			if err := CheckProviderURL(u); err != nil {
				return nil, fmt.Errorf("%s: %w", u, err)
			}
		}
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = defaultAlgorithms
	}
	for _, a := range o.Algorithms {
		if !slices.Contains(Algorithms, a) {
			return nil, fmt.Errorf("the algorithm %q is not supported; use one of %s", a, strings.Join(Algorithms, ", "))
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &OAuth{options: o, fetch: newFetcher(cmp.Or(o.Timeout, 5*time.Second), o.Roots), slots: make(chan struct{}, 32)}
	if o.Keys != "" {
		a.keys = &keySet{source: o.Keys, now: o.Now}
		if remote(o.Keys) {
			a.keys.fetch = a.fetch
		}
	}
	return a, a.Reload()
}

// Name implements Backend.
func (a *OAuth) Name() string { return "oauth" }

// Password implements Backend. It accepts no password.
func (a *OAuth) Password(context.Context, string, string) (Identity, error) {
	return Identity{}, ErrCredentials
}

// Mechanisms implements Offerer.
func (a *OAuth) Mechanisms() []string { return []string{OAuthBearer, XOAuth2} }

// Hint implements Bearer.
func (a *OAuth) Hint() BearerHint { return BearerHint{a.options.Claims.Scope, a.options.Hint} }

// Paths returns the files that were read, so that the caller can watch them.
func (a *OAuth) Paths() []string {
	if a.keys != nil && a.keys.fetch == nil {
		return []string{a.keys.source}
	}
	return nil
}

// Reload reads a key set that is a file again. If the file has a mistake, nothing changes, and the error says what it is. A key
// set from a URL is fetched at the next login.
func (a *OAuth) Reload() error {
	if a.keys == nil {
		return nil
	}
	if err := a.keys.reload(); err != nil {
		return fmt.Errorf("OAuth key set: %w", err)
	}
	a.options.Logger.Info("OAuth key set read", "source", a.keys.source)
	return nil
}

// Token implements Bearer.
func (a *OAuth) Token(ctx context.Context, token string) (Identity, error) {
	if !bearerToken(token) {
		return Identity{}, reason("this is not a bearer token")
	}
	if a.keys == nil {
		return a.introspect(ctx, token)
	}
	payload, err := a.verify(ctx, token)
	if err != nil {
		return Identity{}, err
	}
	set, err := parseClaims(payload)
	if err != nil {
		return Identity{}, err
	}
	return a.options.Claims.identity(set, a.Name(), a.options.Now(), true)
}

// bearerToken reports whether s is a b64token of RFC 6750 §2.1.
func bearerToken(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") == ""
}

// verify checks the signature of a JWT and returns its payload. It does not pass on the library's errors, because they quote the
// token.
func (a *OAuth) verify(ctx context.Context, token string) ([]byte, error) {
	if strings.Count(token, ".") != 2 {
		return nil, reason("the token is not a signed JWT")
	}
	msg, err := jws.Parse([]byte(token), jws.WithCompact())
	if err != nil || len(msg.Signatures()) != 1 {
		return nil, reason("the token is not a signed JWT")
	}
	head := msg.Signatures()[0].ProtectedHeaders()
	alg, there := head.Algorithm()
	if !there || !slices.Contains(a.options.Algorithms, alg.String()) {
		return nil, reason("the token is signed with an algorithm that is not allowed")
	}
	if head.Has(jws.CriticalKey) { // none is supported, so all are refused (RFC 7515 §4.1.11)
		return nil, reason("the token has critical extensions")
	}
	kid, _ := head.KeyID()
	key, err := a.keys.find(ctx, kid, alg)
	if err != nil {
		return nil, err
	}
	payload, err := jws.Verify([]byte(token), jws.WithKey(alg, key), jws.WithCompact())
	if err != nil {
		return nil, reason("the signature of the token is wrong")
	}
	return payload, nil
}

// introspect asks the provider (RFC 7662).
func (a *OAuth) introspect(ctx context.Context, token string) (Identity, error) {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return Identity{}, fmt.Errorf("too many logins at once: %w: %w", ErrUnavailable, ctx.Err())
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.options.Introspection, strings.NewReader(form.Encode()))
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// RFC 6749 §2.3.1 encodes both before they are joined by a colon.
	req.SetBasicAuth(url.QueryEscape(a.options.ClientID), url.QueryEscape(a.options.ClientSecret))
	body, err := a.fetch.do(req)
	if err != nil {
		return Identity{}, err
	}
	set, err := parseClaims(body)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s does not answer with a JSON object", ErrUnavailable, a.options.Introspection)
	}
	switch active, ok := set["active"].(bool); {
	case !ok:
		return Identity{}, fmt.Errorf("%w: %s does not say whether the token is active", ErrUnavailable, a.options.Introspection)
	case !active:
		return Identity{}, reason("the token is not active")
	}
	return a.options.Claims.identity(set, a.Name(), a.options.Now(), false)
}

// bearerFailure is what a client gets when OAUTHBEARER fails (RFC 7628 §3.2.2).
type bearerFailure struct {
	Status    string `json:"status"`
	Schemes   string `json:"schemes,omitempty"`
	Scope     string `json:"scope,omitempty"`
	Discovery string `json:"openid-configuration,omitempty"`
}

// Failure returns the JSON that a client gets when its token is refused with err, for OAUTHBEARER or XOAUTH2.
func (h BearerHint) Failure(mechanism string, err error) []byte {
	f := bearerFailure{Status: "invalid_token", Scope: h.Scope, Discovery: h.Discovery}
	switch {
	case mechanism == XOAuth2:
		f = bearerFailure{Status: "401", Schemes: "bearer", Scope: h.Scope}
	case errors.Is(err, ErrScope):
		f.Status = "insufficient_scope"
	}
	text, _ := json.Marshal(f) // strings can always be encoded
	return text
}
