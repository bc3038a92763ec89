package bundles

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/tlsprofile"
)

// Remote says how bundles are read from other machines. The zero value reads https:// with the system's authorities, and
// in the clear from this machine alone.
type Remote struct {
	// Insecure permits what is neither encrypted nor on this machine: http://, and plain HTTP to a registry.
	Insecure bool
	// TokenFile holds a bearer token in its only line; with Username it is that user's password. "": none is sent.
	TokenFile string
	Username  string
	// CA is a PEM file of the authorities that vouch for servers; "": the system's.
	CA string
	// ClientCert and ClientKey are the PEM files of a certificate to show to servers; both or neither.
	ClientCert, ClientKey string
	// Timeout bounds one download from the first octet to the last; 0: one minute.
	Timeout time.Duration
}

// All files are read anew for each download, so that whoever renews them need not tell us.

// Bounds of what a server may do to us.
const (
	maxRedirects   = 5
	maxPEM         = 1 << 20  // octets of a certificate's file
	maxHeader      = 64 << 10 // octets of an answer's header
	connectTimeout = 10 * time.Second
	answerTimeout  = 20 * time.Second
)

const remoteHint = "write https://host/path/bundle.tar.gz or oci://registry/repository:tag"

func (r Remote) checkAddress(address *url.URL) error {
	switch {
	case address.Scheme != "https" && address.Scheme != "http" && address.Scheme != "oci":
		return fault("", "policies are not read over %s://", address.Scheme).hint("%s", remoteHint)
	case address.User != nil:
		return fault("", "a login stands in the address").hint("put the password into a file: token_file, and username")
	case address.Hostname() == "":
		return fault("", "the host is missing").hint("%s", remoteHint)
	case address.Fragment != "":
		return fault("", "an address takes no #").hint("%s", remoteHint)
	case address.Scheme == "http" && !r.Insecure && !netaddr.IsLoopback(address.Hostname()):
		return fault("", "whoever is on the way could change the policy").hint("use https://, or say insecure: true where the network is trusted")
	}
	return nil
}

// client is made for one download.
func (r Remote) client() (*http.Client, error) {
	config := tlsprofile.New()
	if r.CA != "" {
		pem, err := readSmall(r.CA, maxPEM)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &LoadError{Source: r.CA, Message: "no certificate in it", Hint: "it must be PEM: -----BEGIN CERTIFICATE-----"}
		}
	}
	if r.ClientCert != "" {
		cert, err := tls.LoadX509KeyPair(r.ClientCert, r.ClientKey)
		if err != nil {
			return nil, &LoadError{Source: r.ClientCert, Message: fmt.Sprintf("no certificate to show to the server: %v", err), Err: err}
		}
		config.Certificates = []tls.Certificate{cert}
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: answerTimeout, MaxResponseHeaderBytes: maxHeader,
		DisableCompression: true, // a bundle is compressed already, and bounds are of what comes over the wire
		DisableKeepAlives:  true, // the next request is a poll away
	}
	return &http.Client{Transport: guard{transport, r.Insecure}, CheckRedirect: checkRedirect}, nil
}

// guard sends nothing in the clear to other machines, wherever a redirect or a registry points to.
type guard struct {
	next     http.RoundTripper
	insecure bool
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.insecure && !netaddr.IsLoopback(req.URL.Hostname()) {
		return nil, fault("", "the server sends us to %s://%s, in the clear", req.URL.Scheme, req.URL.Host)
	}
	return g.next.RoundTrip(req)
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fault("", "the server sends us on more than %d times", maxRedirects)
	case req.URL.Scheme != via[0].URL.Scheme:
		return fault("", "the server sends us from %s:// to %s://", via[0].URL.Scheme, req.URL.Scheme).hint("name the address where the bundle is")
	}
	return nil
}

// secret is what TokenFile holds; "" where there is none.
func (r Remote) secret() (string, error) {
	if r.TokenFile == "" {
		return "", nil
	}
	token, err := safefile.ReadSecret(r.TokenFile)
	if err != nil {
		return "", fileFault(r.TokenFile, err)
	}
	token = strings.TrimSpace(token)
	if strings.ContainsFunc(token, func(c rune) bool { return unicode.IsControl(c) || c > unicode.MaxASCII || c == ' ' && r.Username == "" }) {
		return "", &LoadError{Source: r.TokenFile, Message: "holds no token", Hint: "write the token alone, in one line"}
	}
	return token, nil
}

// bounded ends a download in time.
func (r Remote) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	return context.WithTimeoutCause(ctx, timeout, errSlow)
}

var errSlow = errors.New("the download took too long")

// netFault says why there is no answer, in words that are the same each time: they tell whether anything has changed, so
// ports of our own must not be in them.
func netFault(ctx context.Context, err error) *LoadError {
	var load *LoadError
	var op *net.OpError
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var uerr *url.Error
	switch {
	case errors.As(err, &load):
		return load
	case errors.Is(context.Cause(ctx), errSlow):
		return fault("", "the download took too long").because(err)
	case ctx.Err() != nil:
		return fault("", "%v", ctx.Err()).because(ctx.Err())
	case errors.As(err, &unknown):
		return fault("", "nobody we trust vouches for the server's certificate").because(err).hint("name its authority: ca")
	case errors.As(err, &dns):
		return fault("", "cannot find the host %s", dns.Name).because(err)
	case errors.As(err, &op) && op.Timeout():
		return fault("", "the server does not answer").because(err)
	case errors.As(err, &op) && op.Err != nil:
		return fault("", "no connection to the server: %v", op.Err).because(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault("", "the download was cut short").because(err)
	case errors.As(err, &uerr):
		if uerr.Timeout() {
			return fault("", "the server does not answer").because(err)
		}
		return fault("", "no answer from the server: %v", uerr.Err).because(err)
	}
	return fault("", "no answer from the server: %v", err).because(err)
}

// statusFault says what an answer that is no bundle means.
func statusFault(code int) *LoadError {
	f := fault("", "the server answers %d %s", code, http.StatusText(code))
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return f.hint("does it want token_file, username or client_cert?")
	case http.StatusNotFound:
		return f.hint("is the address right?")
	}
	return f
}

// web is a bundle at an https:// or http:// address, served as a file or by an OPA bundle service.
type web struct {
	address *url.URL
	remote  Remote
}

// String leaves the query out: it may be a signature that gives access.
func (w *web) String() string {
	bare := *w.address
	bare.RawQuery = ""
	return bare.String()
}

func (w *web) Paths() []string { return nil }

func (w *web) Read(ctx context.Context, limits Limits) (*Tree, error) {
	return w.ReadSince(ctx, limits, "")
}

// ReadSince sends version as If-None-Match. Only the caller knows whether what came was any good, so nothing is remembered
// here: a bundle that could not be activated is sent again (opa#2220).
func (w *web) ReadSince(ctx context.Context, limits Limits, version string) (*Tree, error) {
	ctx, cancel := w.remote.bounded(ctx)
	defer cancel()
	packed, tag, err := w.download(ctx, limits.orDefault().File, version)
	if err == ErrUnchanged {
		return nil, err
	}
	if err != nil {
		return nil, from(w.String(), err)
	}
	tree, err := Unpack(bytes.NewReader(packed), limits)
	if err != nil {
		return nil, from(w.String(), err)
	}
	tree.Version = tag
	return tree, nil
}

func (w *web) download(ctx context.Context, limit int64, version string) (packed []byte, tag string, err error) {
	client, err := w.remote.client()
	if err != nil {
		return nil, "", err
	}
	req, err := w.request(ctx, version)
	if err != nil {
		return nil, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", netFault(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && version != "":
		return nil, "", ErrUnchanged
	case resp.StatusCode != http.StatusOK:
		return nil, "", statusFault(resp.StatusCode)
	case resp.Header.Get("Content-Encoding") != "":
		return nil, "", fault("", "the server encodes the bundle once more (%s)", shown(resp.Header.Get("Content-Encoding"))).
			hint("serve the file as it is")
	}
	packed, err = readBody(ctx, resp.Body, resp.ContentLength, limit)
	return packed, resp.Header.Get("ETag"), err
}

func (w *web) request(ctx context.Context, version string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.address.String(), nil)
	if err != nil {
		return nil, fault("", "%v", err).because(err)
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "application/gzip, application/vnd.openpolicyagent.bundles, application/octet-stream")
	req.Header.Set("Prefer", "modes=snapshot") // OPA's bundle services: no deltas
	if version != "" {
		req.Header.Set("If-None-Match", version)
	}
	secret, err := w.remote.secret()
	switch {
	case err != nil:
		return nil, err
	case w.remote.Username != "":
		req.SetBasicAuth(w.remote.Username, secret)
	case secret != "":
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	return req, nil
}

const userAgent = "postern"

// readBody reads an answer of at most limit octets. size is what the server says; below 0: it does not.
func readBody(ctx context.Context, body io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fault("", "%d octets; at most %d are read", size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, netFault(ctx, err)
	}
	if int64(len(data)) > limit {
		return nil, fault("", "more than %d octets", limit)
	}
	return data, nil
}
