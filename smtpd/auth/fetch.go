package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/postern-mail/postern/internal/netaddr"
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
