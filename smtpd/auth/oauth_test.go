package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
)

// provider is an OAuth provider on loopback, whose answer a test sets.
type provider struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	asked  atomic.Int64
}

func newProvider(t *testing.T, h http.HandlerFunc) *provider {
	t.Helper()
	p := &provider{}
	p.answer.Store(&h)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		(*p.answer.Load())(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) says(h http.HandlerFunc) { p.answer.Store(&h) }

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); fmt.Fprint(w, body) }
}

// signers are private keys, one of a kind, made once.
var signers = sync.OnceValue(func() map[string]any {
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	e, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, d, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		panic(err)
	}
	return map[string]any{"rsa": r, "ec": e, "ed": d}
})

// keySetOf is the public JSON Web Key Set of some of them.
func keySetOf(t testing.TB, names ...string) string {
	t.Helper()
	set := jwk.NewSet()
	for _, n := range names {
		private, err := jwk.Import(signers()[n])
		if err != nil {
			t.Fatal(err)
		}
		public, err := private.PublicKey()
		if err == nil {
			err = errors.Join(public.Set(jwk.KeyIDKey, n), set.AddKey(public))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var atNoon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

type object = map[string]any

func goodClaims() object {
	return object{"iss": "https://idp.example.com", "aud": "mail", "exp": atNoon.Unix() + 300, "iat": atNoon.Unix() - 10, "email": "alice@example.com",
		"groups": []string{"sales", "staff"}, "department": "17", "scope": "openid smtp"}
}

// sign makes a token.
func sign(t testing.TB, alg jwa.SignatureAlgorithm, key, kid string, claims object) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	head := jws.NewHeaders()
	if kid != "" {
		head.Set(jws.KeyIDKey, kid)
	}
	b, err := jws.Sign(payload, jws.WithKey(alg, signers()[key], jws.WithProtectedHeaders(head)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func raw(head, payload string, signature []byte) string {
	b64 := base64.RawURLEncoding
	return b64.EncodeToString([]byte(head)) + "." + b64.EncodeToString([]byte(payload)) + "." + b64.EncodeToString(signature)
}

func options(keys string) OAuthOptions {
	return OAuthOptions{Keys: keys, Now: func() time.Time { return atNoon }, Claims: Claims{
		Issuer: "https://idp.example.com", Audience: []string{"post", "mail"}, Scope: "smtp", Groups: "groups", Attributes: []string{"department", "none"}}}
}

func oauthOf(t *testing.T, o OAuthOptions) *OAuth {
	t.Helper()
	a, err := OpenOAuth(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestTokens: which JWTs prove something. The forgeries are those of RFC 8725 and of CVEs against others.
func TestTokens(t *testing.T) {
	set := keySetOf(t, "rsa", "ec", "ed")
	p := newProvider(t, text(200, set))
	a := oauthOf(t, options(p.URL))
	with := func(change func(object)) string {
		c := goodClaims()
		change(c)
		return sign(t, jwa.RS256(), "rsa", "rsa", c)
	}
	good := sign(t, jwa.RS256(), "rsa", "rsa", goodClaims())
	parts := strings.Split(good, ".")
	payload, _ := json.Marshal(goodClaims())
	var public jwk.Key
	if private, err := jwk.Import(signers()["rsa"]); err == nil {
		public, _ = private.PublicKey()
	}
	pem, err := jwk.Pem(public)
	if err != nil {
		t.Fatal(err)
	}
	confused := func(secret []byte) string {
		head := `{"alg":"HS256","kid":"rsa"}`
		in := base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString(payload)
		return in + "." + base64.RawURLEncoding.EncodeToString(hmacSHA256(secret, in))
	}
	for name, c := range map[string]struct{ token, want string }{
		"good":                  {good, ""},
		"PS256":                 {sign(t, jwa.PS256(), "rsa", "rsa", goodClaims()), ""},
		"ES256":                 {sign(t, jwa.ES256(), "ec", "ec", goodClaims()), ""},
		"EdDSA":                 {sign(t, jwa.EdDSA(), "ed", "ed", goodClaims()), ""},
		"no kid, one EC key":    {sign(t, jwa.ES256(), "ec", "", goodClaims()), ""},
		"audience in a list":    {with(func(c object) { c["aud"] = []string{"x", "mail"} }), ""},
		"scp":                   {with(func(c object) { delete(c, "scope"); c["scp"] = []string{"smtp"} }), ""},
		"within leeway":         {with(func(c object) { c["exp"] = atNoon.Unix() - 30 }), ""},
		"expired":               {with(func(c object) { c["exp"] = atNoon.Unix() - 61 }), "expired"},
		"expired by the leeway": {with(func(c object) { c["exp"] = atNoon.Unix() - 60 }), "expired"},
		"never expires":         {with(func(c object) { delete(c, "exp") }), "has no expiry"},
		"expires in words":      {with(func(c object) { c["exp"] = "2099-01-01" }), "has no expiry"},
		"expires at infinity":   {with(func(c object) { c["exp"] = 1e300 }), "has no expiry"},
		"not yet":               {with(func(c object) { c["nbf"] = atNoon.Unix() + 61 }), "not valid yet"},
		"issued in the future":  {with(func(c object) { c["iat"] = atNoon.Unix() + 3600 }), "not valid yet"},
		"other issuer":          {with(func(c object) { c["iss"] = "https://idp.example.com/" }), "another issuer"},
		"no issuer":             {with(func(c object) { delete(c, "iss") }), "another issuer"},
		"other audience":        {with(func(c object) { c["aud"] = "wiki" }), "another audience"},
		"no audience":           {with(func(c object) { delete(c, "aud") }), "another audience"},
		"no scope":              {with(func(c object) { c["scope"] = "openid smtp2" }), "lacks the scope"},
		"no login":              {with(func(c object) { delete(c, "email") }), "no usable claim email"},
		"login is a list":       {with(func(c object) { c["email"] = []string{"alice@example.com"} }), "no usable claim email"},
		"login with a NUL":      {with(func(c object) { c["email"] = "alice\x00" }), "no usable claim email"},
		"address not verified":  {with(func(c object) { c["email_verified"] = false }), "not verified"},
		"alg none":              {raw(`{"alg":"none"}`, string(payload), nil), "algorithm"},
		"alg None":              {raw(`{"alg":"None"}`, string(payload), nil), "not a signed JWT"},
		"no alg":                {raw(`{"kid":"rsa"}`, string(payload), []byte("x")), "algorithm"},
		"HS256 with PEM":        {confused(pem), "algorithm"},
		"HS256 with key set":    {confused([]byte(set)), "algorithm"},
		"not in the allow-list": {sign(t, jwa.RS384(), "rsa", "rsa", goodClaims()), "algorithm"},
		"kid of another kind":   {sign(t, jwa.ES256(), "ec", "rsa", goodClaims()), "unknown key"},
		"signature of another":  {parts[0] + "." + parts[1] + "." + strings.Split(with(func(c object) { c["email"] = "x@example.com" }), ".")[2], "signature"},
		"payload changed":       {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), "alice", "admin", 1))) + "." + parts[2], "signature"},
		"signature cut":         {parts[0] + "." + parts[1] + ".", "not a signed JWT"},
		"key in the header":     {raw(`{"alg":"ES256","jwk":{"kty":"EC"}}`, string(payload), []byte("x")), "not a signed JWT"},
		"critical extension":    {raw(`{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}`, string(payload), []byte("x")), "critical"},
		"two parts":             {parts[0] + "." + parts[1], "not a signed JWT"},
		"five parts":            {good + ".a.b", "not a signed JWT"},
		"opaque":                {"2YotnFZFEjr1zCsicMWpAA", "not a signed JWT"},
		"spaces":                {good + " ", "not a bearer token"},
		"JSON form":             {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, "not a bearer token"},
		"empty":                 {"", "not a bearer token"},
		"payload is a list":     {signRaw(t, `["x"]`), "not a JSON object"},
		"payload twice":         {signRaw(t, string(payload)+string(payload)), "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := a.Token(t.Context(), c.token)
			if c.want == "" {
				if err != nil || id.Login != "alice@example.com" || id.Backend != "oauth" || !slices.Equal(id.Groups, []string{"sales", "staff"}) ||
					len(id.Attributes) != 1 || id.Attributes["department"][0] != "17" {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			if !errors.Is(err, ErrCredentials) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), c.want) || id.Login != "" {
				t.Errorf("%+v, %v", id, err)
			}
			if c.token != "" && strings.Contains(err.Error(), c.token) {
				t.Error("the token is in the error")
			}
		})
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	if !errors.Is(ErrScope, ErrCredentials) {
		t.Error("ErrScope is no ErrCredentials")
	}
}

func signRaw(t *testing.T, payload string) string {
	t.Helper()
	head := jws.NewHeaders()
	head.Set(jws.KeyIDKey, "rsa")
	b, err := jws.Sign([]byte(payload), jws.WithKey(jwa.RS256(), signers()["rsa"], jws.WithProtectedHeaders(head)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestIntrospection: the answers of a provider, each with the result of the login.
func TestIntrospection(t *testing.T) {
	answer := func(change func(object)) http.HandlerFunc {
		c := goodClaims()
		c["active"] = true
		change(c)
		b, _ := json.Marshal(c)
		return func(w http.ResponseWriter, r *http.Request) {
			id, secret, ok := r.BasicAuth()
			if !ok || id != "postern" || secret != "s%3Ecret" || r.Method != http.MethodPost || r.FormValue("token") != "opaque" || r.URL.RawQuery != "" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Write(b)
		}
	}
	bare := func(c object) {
		for k := range c {
			if k != "active" && k != "email" && k != "scope" {
				delete(c, k)
			}
		}
	}
	release := make(chan struct{})
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want error
	}{
		"active":             {answer(func(object) {}), nil},
		"no more than that":  {answer(bare), nil},
		"inactive":           {answer(func(c object) { c["active"] = false }), ErrCredentials},
		"inactive alone":     {text(200, `{"active":false}`), ErrCredentials},
		"active in words":    {answer(func(c object) { c["active"] = "true" }), ErrUnavailable},
		"active is one":      {answer(func(c object) { c["active"] = 1 }), ErrUnavailable},
		"says nothing":       {text(200, `{}`), ErrUnavailable},
		"expired all along":  {answer(func(c object) { c["exp"] = atNoon.Unix() - 100 }), ErrCredentials},
		"expiry is nonsense": {answer(func(c object) { c["exp"] = "never" }), ErrCredentials},
		"other audience":     {answer(func(c object) { c["aud"] = "wiki" }), ErrCredentials},
		"other issuer":       {answer(func(c object) { c["iss"] = "x" }), ErrCredentials},
		"no scope":           {answer(func(c object) { c["scope"] = "" }), ErrScope},
		"no login":           {answer(func(c object) { delete(c, "email") }), ErrCredentials},
		"secret refused":     {text(401, `{"active":true,"email":"alice@example.com","scope":"smtp"}`), ErrUnavailable},
		"HTML":               {text(200, "<html>"), ErrUnavailable},
		"a list":             {text(200, `[{"active":true}]`), ErrUnavailable},
		"down":               {text(500, ""), ErrUnavailable},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, ErrUnavailable},
		"slow": {func(http.ResponseWriter, *http.Request) { <-release }, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			o := options("")
			o.Introspection, o.ClientID, o.ClientSecret, o.Timeout = newProvider(t, c.h).URL, "postern", "s>cret", 30*time.Second
			if name == "slow" {
				o.Timeout = 100 * time.Millisecond
				defer func() { release <- struct{}{} }()
			}
			id, err := oauthOf(t, o).Token(t.Context(), "opaque")
			if !errors.Is(err, c.want) || (c.want == nil) != (id.Login == "alice@example.com") || c.want == ErrCredentials && errors.Is(err, ErrUnavailable) {
				t.Errorf("%+v, %v", id, err)
			}
			if err != nil && strings.Contains(err.Error(), "opaque") {
				t.Error("the token is in the error")
			}
		})
	}
}

// TestOAuthOptions: what would let too many in is refused.
func TestOAuthOptions(t *testing.T) {
	for name, change := range map[string]func(*OAuthOptions){
		"neither":         func(o *OAuthOptions) { o.Keys = "" },
		"both":            func(o *OAuthOptions) { o.Introspection = "https://idp.example.com/" },
		"no issuer":       func(o *OAuthOptions) { o.Claims.Issuer = "" },
		"no audience":     func(o *OAuthOptions) { o.Claims.Audience = nil },
		"http":            func(o *OAuthOptions) { o.Keys = "http://idp.example.com/" },
		"http, lookalike": func(o *OAuthOptions) { o.Keys = "http://127.0.0.1.example.com/" },
		"ftp":             func(o *OAuthOptions) { o.Keys = "ftp://idp.example.com/" },
		"login in URL":    func(o *OAuthOptions) { o.Keys = "https://a:b@idp.example.com/" },
		"HMAC":            func(o *OAuthOptions) { o.Algorithms = []string{"HS256"} },
		"none":            func(o *OAuthOptions) { o.Algorithms = []string{"none"} },
	} {
		o := options("https://idp.example.com/")
		change(&o)
		if _, err := OpenOAuth(o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if id, err := oauthOf(t, options("https://idp.example.com/")).Password(context.Background(), "alice", "secret"); !errors.Is(err, ErrCredentials) || id.Login != "" {
		t.Error(id, err)
	}
}
