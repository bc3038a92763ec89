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

// Algorithms of JWT signatures that can be allowed, and those that are if nothing else is said. All are asymmetric: a key set is
// public, and what is public signs nothing (RFC 8725 §3.1).
var (
	Algorithms        = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	defaultAlgorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
)

// OAuthOptions configure an OAuth. Either Keys or Introspection is set.
type OAuthOptions struct {
	// Keys is a file or URL with a JSON Web Key Set, for tokens that are JWTs.
	Keys string
	// Algorithms that are taken; RS256, PS256, ES256, EdDSA.
	Algorithms []string
	// Introspection is the URL of RFC 7662, for tokens that only the provider can read.
	Introspection          string
	ClientID, ClientSecret string // for Introspection

	Claims Claims
	Hint   string         // URL for BearerHint.Discovery
	Roots  *x509.CertPool // authorities of the provider's certificate; nil: the system's
	// Timeout of one request; 5 s.
	Timeout time.Duration
	// Now is the clock; time.Now.
	Now func() time.Time
	// Logger hears of reloads; none.
	Logger *slog.Logger
}

// OAuth is a Backend for OAuth 2.0 bearer tokens. Nothing is remembered of them. Make one with OpenOAuth; it is safe for concurrent
// use.
type OAuth struct {
	options OAuthOptions
	keys    *keySet // nil: introspection
	fetch   *fetcher
	slots   chan struct{} // introspections under way
}

// OpenOAuth checks the options, and reads a key set that is a file. A URL is not asked before the first login: a provider that is
// down keeps nobody's server from starting.
func OpenOAuth(o OAuthOptions) (*OAuth, error) {
	if (o.Keys == "") == (o.Introspection == "") {
		return nil, errors.New("OAuth needs a key set or an introspection URL, and not both")
	}
	if o.Keys != "" && (o.Claims.Issuer == "" || len(o.Claims.Audience) == 0) {
		return nil, errors.New("OAuth by key set needs issuer and audience: a token for somebody else's service would do as well")
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
			return nil, fmt.Errorf("%q is no algorithm that is taken; one of %s", a, strings.Join(Algorithms, ", "))
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

// Password implements Backend: no password proves anything here.
func (a *OAuth) Password(context.Context, string, string) (Identity, error) {
	return Identity{}, ErrCredentials
}

// Mechanisms implements Offerer.
func (a *OAuth) Mechanisms() []string { return []string{OAuthBearer, XOAuth2} }

// Hint implements Bearer.
func (a *OAuth) Hint() BearerHint { return BearerHint{a.options.Claims.Scope, a.options.Hint} }

// Paths of files that were read, for whoever watches them.
func (a *OAuth) Paths() []string {
	if a.keys != nil && a.keys.fetch == nil {
		return []string{a.keys.source}
	}
	return nil
}

// Reload reads a key set that is a file again; when anything is wrong with it, nothing changes. One that comes from a URL is
// fetched at the next login.
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
		return Identity{}, reason("this is no bearer token")
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

// bearerToken is b64token of RFC 6750 §2.1.
func bearerToken(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") == ""
}

// verify checks the signature of a JWT and returns its payload. What the library says of a token is not passed on: it quotes.
func (a *OAuth) verify(ctx context.Context, token string) ([]byte, error) {
	if strings.Count(token, ".") != 2 {
		return nil, reason("the token is no signed JWT")
	}
	msg, err := jws.Parse([]byte(token), jws.WithCompact())
	if err != nil || len(msg.Signatures()) != 1 {
		return nil, reason("the token is no signed JWT")
	}
	head := msg.Signatures()[0].ProtectedHeaders()
	alg, there := head.Algorithm()
	if !there || !slices.Contains(a.options.Algorithms, alg.String()) {
		return nil, reason("the token is signed by an algorithm that is not allowed")
	}
	if head.Has(jws.CriticalKey) { // RFC 7515 §4.1.11: none that we understand
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
	// RFC 6749 §2.3.1 encodes both before they are joined.
	req.SetBasicAuth(url.QueryEscape(a.options.ClientID), url.QueryEscape(a.options.ClientSecret))
	body, err := a.fetch.do(req)
	if err != nil {
		return Identity{}, err
	}
	set, err := parseClaims(body)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s answers with what is no JSON object", ErrUnavailable, a.options.Introspection)
	}
	switch active, ok := set["active"].(bool); {
	case !ok:
		return Identity{}, fmt.Errorf("%w: %s does not say whether the token is active", ErrUnavailable, a.options.Introspection)
	case !active:
		return Identity{}, reason("the token is not active")
	}
	return a.options.Claims.identity(set, a.Name(), a.options.Now(), false)
}

// bearerFailure is what a client is told by OAUTHBEARER (RFC 7628 §3.2.2).
type bearerFailure struct {
	Status    string `json:"status"`
	Schemes   string `json:"schemes,omitempty"`
	Scope     string `json:"scope,omitempty"`
	Discovery string `json:"openid-configuration,omitempty"`
}

// Failure is the JSON that a client is told whose token was refused with err, by OAUTHBEARER or by XOAUTH2.
func (h BearerHint) Failure(mechanism string, err error) []byte {
	f := bearerFailure{Status: "invalid_token", Scope: h.Scope, Discovery: h.Discovery}
	switch {
	case mechanism == XOAuth2:
		f = bearerFailure{Status: "401", Schemes: "bearer", Scope: h.Scope}
	case errors.Is(err, ErrScope):
		f.Status = "insufficient_scope"
	}
	text, _ := json.Marshal(f) // strings always marshal
	return text
}
