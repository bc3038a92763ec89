package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/tlsprofile"
)

// maxAnswer bounds what a provider may answer, in octets.
const maxAnswer = 1 << 20

// fetcher asks an OAuth provider over HTTPS. Redirects are not followed: they are how a request ends up elsewhere.
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

// do wants 200 and returns the body.
func (f *fetcher) do(req *http.Request) ([]byte, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		var u *url.Error // its text has the URL, which is ours, and no body
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
		return nil, fmt.Errorf("%w: %s answers more than %d octets", ErrUnavailable, req.URL.Redacted(), maxAnswer)
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

// CheckProviderURL says what is wrong with the URL of an OAuth provider: https, or http to this machine.
func CheckProviderURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || u.Fragment != "":
		return errors.New("this is no URL; write https://idp.example.com/path")
	case u.User != nil:
		return errors.New("a login stands in the URL; write client_id and client_secret_file instead")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("%s:// is not read; write https://", u.Scheme)
	}
	if netaddr.IsLoopback(u.Hostname()) {
		return nil
	}
	return errors.New("http:// is for this machine alone: whoever is on the way could make keys up; write https://")
}

// Life of a key set that came over the network.
const (
	keysFresh    = time.Hour        // then it is fetched again; a key that was taken out ends within this time
	keysStale    = 24 * time.Hour   // while the provider is down, the old ones are good for this long
	keysInterval = 30 * time.Second // between two fetches, whatever key ids clients come up with
	maxKeys      = 256
)

// keySet holds a provider's public keys: a file's, or a URL's. It has no goroutine; a login for which there is no key fetches them
// and others wait with it; a login that finds them old fetches them while others go on with the old ones.
type keySet struct {
	source string
	fetch  *fetcher // nil: source is a file
	now    func() time.Time

	fetching sync.Mutex // held over a fetch

	mu     sync.Mutex
	keys   jwk.Set
	at     time.Time // of keys
	tried  time.Time
	failed error // of the last fetch
}

// remote says that a source is no file.
func remote(source string) bool { return strings.Contains(source, "://") }

// reload reads the file again, or lets the next login fetch.
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

// parseKeys wants public keys only: what a client may know, it could sign with.
func parseKeys(data []byte) (jwk.Set, error) {
	set, err := jwk.Parse(data)
	if err != nil {
		return nil, errors.New("this is no JSON Web Key Set (RFC 7517)")
	}
	if n := set.Len(); n == 0 || n > maxKeys {
		return nil, fmt.Errorf("a key set with %d keys; from 1 to %d are read", n, maxKeys)
	}
	for i := range set.Len() {
		key, _ := set.Key(i)
		// A key of a kind that is not known here is passed over (RFC 7517 §5): it fits no algorithm.
		if private, _ := jwk.IsPrivateKey(key); private || key.KeyType() == jwa.OctetSeq() {
			return nil, fmt.Errorf("key %d of the set is private or symmetric; give the provider's public keys", i+1)
		}
	}
	return set, nil
}

// find gives the key of kid for alg. An unknown kid fetches the set again, but not more often than keysInterval.
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
		return nil, fmt.Errorf("%w: no keys: %w", ErrUnavailable, k.failed)
	case key == nil && k.failed != nil: // it may be a new one
		return nil, fmt.Errorf("%w: unknown key, and no newer keys: %w", ErrUnavailable, k.failed)
	case key == nil:
		return nil, reason("the token is signed by an unknown key")
	}
	return key, nil
}

// refresh fetches, unless it has just been done. fetching is held.
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
	// Others wait for this answer, too: it does not hang on whether this client stays.
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

// lookup wants the kid, or without one the only key that alg can use, and says how old the set is.
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
			return nil, age // two: which of them is not ours to guess
		}
		found = key
	}
	return found, age
}

// usable says whether a key is for signatures by alg.
func usable(key jwk.Key, alg jwa.SignatureAlgorithm) bool {
	if use, there := key.KeyUsage(); there && use != string(jwk.ForSignature) {
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
