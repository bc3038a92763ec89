package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/tlsprofile"
)

// maxAnswer bounds a response of a provider, in bytes.
const maxAnswer = 1 << 20

// fetcher asks an OAuth provider over HTTPS. It does not follow redirects, which could lead to another host.
type fetcher struct {
	client *http.Client
}

func newFetcher(timeout time.Duration, roots *x509.CertPool) *fetcher {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = tlsprofile.New()
	transport.TLSClientConfig.RootCAs = roots
	transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = 8, 32
	transport.MaxResponseHeaderBytes = 64 << 10
	return &fetcher{&http.Client{
		Transport: transport, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do sends a request and returns the body of a response with status 200.
func (f *fetcher) do(req *http.Request) ([]byte, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		var u *url.Error // its text has the configured URL, and no body
		if errors.As(err, &u) && u.Timeout() {
			return nil, fmt.Errorf("%w: %s does not answer in time", ErrUnavailable, req.URL.Redacted())
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, req.URL.Redacted(), err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s answers %s", ErrUnavailable, req.URL.Redacted(), resp.Status)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("%w: %s answers with more than %d bytes", ErrUnavailable, req.URL.Redacted(), maxAnswer)
	}
	return body, nil
}

func (f *fetcher) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return f.do(req)
}

// CheckProviderURL checks the URL of an OAuth provider. It must be https://, or http:// to this machine.
func CheckProviderURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || u.Fragment != "":
		return errors.New("this is not a URL; write https://idp.example.com/path")
	case u.User != nil:
		return errors.New("the URL contains a login; write client_id and client_secret_file instead")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("%s:// is not supported; write https://", u.Scheme)
	}
	if netaddr.IsLoopback(u.Hostname()) {
		return nil
	}
	return errors.New("http:// is for this machine only, because keys could be changed on the way; write https://")
}

// Life of a key set that came over the network.
const (
	keysFresh    = time.Hour        // after it, the set is fetched again; a removed key is accepted until then
	keysStale    = 24 * time.Hour   // how long old keys are used while the provider is down
	keysInterval = 30 * time.Second // least time between two fetches, even if clients send unknown key ids
	maxKeys      = 256
)

// keySet holds a provider's public keys, from a file or a URL. It has no goroutine. A login whose key is missing fetches the set,
// and others that need it wait. A login that finds the set old fetches it, while others use the old one.
type keySet struct {
	source string
	fetch  *fetcher // nil: source is a file
	now    func() time.Time

	fetching sync.Mutex // held during a fetch

	mu     sync.Mutex
	keys   jwk.Set
	at     time.Time // when keys were read
	tried  time.Time
	failed error // why the last fetch failed; nil: it did not
}

// remote reports whether a source is a URL and not a file.
func remote(source string) bool { return strings.Contains(source, "://") }

// reload reads the file again, or makes the next login fetch the URL.
func (k *keySet) reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fetch != nil {
		k.at, k.tried = k.at.Add(-keysFresh), time.Time{}
		return nil
	}
	data, err := safefile.ReadFile(k.source, maxAnswer)
	if err != nil {
		return err
	}
	set, err := parseKeys(data)
	if err != nil {
		return fmt.Errorf("%s: %w", k.source, err)
	}
	k.keys, k.at = set, k.now()
	return nil
}

// parseKeys reads a key set. It refuses private and symmetric keys: a client that knows the set could sign with them.
func parseKeys(data []byte) (jwk.Set, error) {
	set, err := jwk.Parse(data)
	if err != nil {
		return nil, errors.New("this is not a JSON Web Key Set (RFC 7517)")
	}
	if n := set.Len(); n == 0 || n > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys and must have 1 to %d", n, maxKeys)
	}
	for i := range set.Len() {
		key, _ := set.Key(i)
		// A key of an unknown kind is skipped (RFC 7517 §5), because it fits no algorithm.
		if private, _ := jwk.IsPrivateKey(key); private || key.KeyType() == jwa.OctetSeq() {
			return nil, fmt.Errorf("key %d of the set is private or symmetric; give the provider's public keys", i+1)
		}
	}
	return set, nil
}

// find returns the key with the id kid for alg. For an unknown kid it fetches the set again, at most once in keysInterval.
func (k *keySet) find(ctx context.Context, kid string, alg jwa.SignatureAlgorithm) (jwk.Key, error) {
	key, age := k.lookup(kid, alg)
	switch {
	case k.fetch == nil:
	case key == nil:
		k.fetching.Lock()
		k.refresh(ctx)
		k.fetching.Unlock()
	case age >= keysFresh && k.fetching.TryLock():
		k.refresh(ctx)
		k.fetching.Unlock()
	}
	key, age = k.lookup(kid, alg)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.keys == nil || k.fetch != nil && age >= keysStale:
		return nil, fmt.Errorf("%w: there are no keys: %w", ErrUnavailable, k.failed)
	case key == nil && k.failed != nil: // it may be a new key
		return nil, fmt.Errorf("%w: the key is unknown, and newer keys cannot be fetched: %w", ErrUnavailable, k.failed)
	case key == nil:
		return nil, reason("the token is signed by an unknown key")
	}
	return key, nil
}

// refresh fetches the set, unless that was done a moment ago. The caller holds fetching.
func (k *keySet) refresh(ctx context.Context) {
	k.mu.Lock()
	now := k.now()
	recent := !k.tried.IsZero() && now.Sub(k.tried) < keysInterval
	if !recent {
		k.tried = now
	}
	k.mu.Unlock()
	if recent {
		return
	}
	// Other logins wait for this response, too, so it must not end with this client's connection.
	data, err := k.fetch.get(context.WithoutCancel(ctx), k.source)
	var set jwk.Set
	if err == nil {
		if set, err = parseKeys(data); err != nil {
			err = fmt.Errorf("%s: %w", k.source, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed = err; err == nil {
		k.keys, k.at = set, now
	}
}

// lookup returns the key with the id kid or, if kid is empty, the only key that fits alg. age is the age of the set.
func (k *keySet) lookup(kid string, alg jwa.SignatureAlgorithm) (found jwk.Key, age time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	age = k.now().Sub(k.at)
	if k.keys == nil {
		return nil, age
	}
	for i := range k.keys.Len() {
		key, _ := k.keys.Key(i)
		if id, _ := key.KeyID(); kid != "" && id != kid || !usable(key, alg) {
			continue
		}
		if found != nil {
			return nil, age // several keys fit, and nothing says which one it is
		}
		found = key
	}
	return found, age
}

// usable reports whether a key is for verifying signatures made with alg (RFC 7517 §4.2 to §4.4).
func usable(key jwk.Key, alg jwa.SignatureAlgorithm) bool {
	if use, there := key.KeyUsage(); there && use != string(jwk.ForSignature) {
		return false
	}
	if ops, there := key.KeyOps(); there && !slices.Contains(ops, jwk.KeyOpVerify) {
		return false
	}
	if own, there := key.Algorithm(); there && own.String() != alg.String() {
		return false
	}
	name := alg.String()
	switch key.KeyType() {
	case jwa.RSA():
		return strings.HasPrefix(name, "RS") || strings.HasPrefix(name, "PS")
	case jwa.EC():
		return strings.HasPrefix(name, "ES")
	case jwa.OKP():
		return name == "EdDSA"
	}
	return false
}
