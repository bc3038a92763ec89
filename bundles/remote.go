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

// Remote has the options for bundles on other machines. With the zero value, https:// is verified with the system's
// authorities, and http:// is allowed for this machine only.
type Remote struct {
	// Insecure also allows http://, and plain HTTP to a registry, to other machines.
	Insecure bool
	// TokenFile is a file whose first line is a bearer token or, with Username, that user's password; "": none is sent.
	TokenFile string
	Username  string
	// CA is a PEM file of the authorities whose certificates servers must have; "": the system's.
	CA string
	// ClientCert and ClientKey are the PEM files of a client certificate; both or neither.
	ClientCert, ClientKey string
	// Timeout bounds one download; 0: one minute.
	Timeout time.Duration
}

// Bounds of a download. All files that Remote names are read again for each download, so that renewed ones are used.
const (
	maxRedirects   = 5
	maxPEM         = 1 << 20  // bytes of a certificate's file
	maxHeader      = 64 << 10 // bytes of a response's header
	connectTimeout = 10 * time.Second
	answerTimeout  = 20 * time.Second
)

const remoteHint = "write https://host/path/bundle.tar.gz or oci://registry/repository:tag"

func (r Remote) checkAddress(address *url.URL) error {
	switch {
	case address.Scheme != "https" && address.Scheme != "http" && address.Scheme != "oci":
		return fault("", "policies are not read over %s://", address.Scheme).hint("%s", remoteHint)
	case address.User != nil:
		return fault("", "the address contains a login").hint("write username, and put the password into a file for token_file")
	case address.Hostname() == "":
		return fault("", "the host is missing").hint("%s", remoteHint)
	case address.Fragment != "":
		return fault("", "an address must not contain #").hint("%s", remoteHint)
	case address.Scheme == "http" && !r.Insecure && !netaddr.IsLoopback(address.Hostname()):
		return fault("", "http:// to another machine can be changed on the way").hint("write https://, or insecure: true if you trust the network")
	}
	return nil
}

// client returns an HTTP client for one download.
func (r Remote) client() (*http.Client, error) {
	config := tlsprofile.New()
	if r.CA != "" {
		pem, err := readSmall(r.CA, maxPEM)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &LoadError{Source: r.CA, Message: "holds no certificate", Hint: "it must be PEM: -----BEGIN CERTIFICATE-----"}
		}
	}
	if r.ClientCert != "" {
		cert, err := tls.LoadX509KeyPair(r.ClientCert, r.ClientKey)
		if err != nil {
			return nil, &LoadError{Source: r.ClientCert, Message: fmt.Sprintf("the client certificate cannot be read: %v", err), Err: err}
		}
		config.Certificates = []tls.Certificate{cert}
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: answerTimeout, MaxResponseHeaderBytes: maxHeader,
		DisableCompression: true, // a bundle is compressed already, and the limits count what is received
		DisableKeepAlives:  true, // the next request is a poll away
	}
	return &http.Client{Transport: guard{transport, r.Insecure}, CheckRedirect: checkRedirect}, nil
}

// guard refuses plain HTTP to other machines, also where a redirect or a registry leads to.
type guard struct {
	next     http.RoundTripper
	insecure bool
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.insecure && !netaddr.IsLoopback(req.URL.Hostname()) {
		return nil, fault("", "the server redirects to %s://%s, which is not encrypted", req.URL.Scheme, req.URL.Host)
	}
	return g.next.RoundTrip(req)
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fault("", "the server redirects more than %d times", maxRedirects)
	case req.URL.Scheme != via[0].URL.Scheme:
		return fault("", "the server redirects from %s:// to %s://", via[0].URL.Scheme, req.URL.Scheme).hint("give the address that holds the bundle")
	}
	return nil
}

// secret returns the token or password of TokenFile; "" if there is none.
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
		return "", &LoadError{Source: r.TokenFile, Message: "the first line is not a token", Hint: "write only the token there, without spaces"}
	}
	return token, nil
}

// bounded returns a context that ends with the download's time-out.
func (r Remote) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	return context.WithTimeoutCause(ctx, timeout, errSlow)
}

var errSlow = errors.New("the download took too long")

// netFault says why there is no response. The text is the same each time for the same reason, because it is compared with the
// last one: it must not contain local ports.
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
		return fault("", "the server's certificate is not from a trusted authority").because(err).hint("name its authority with ca")
	case errors.As(err, &dns):
		return fault("", "the host %s is not found", dns.Name).because(err)
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

// statusFault returns a fault for a status that does not come with a bundle.
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

// web is a bundle at an https:// or http:// address. A file server or an OPA bundle service serves it.
type web struct {
	address *url.URL
	remote  Remote
}

// String leaves the query out, because it may be a signature that gives access.
func (w *web) String() string {
	bare := *w.address
	bare.RawQuery = ""
	return bare.String()
}

func (w *web) Paths() []string { return nil }

func (w *web) Read(ctx context.Context, limits Limits) (*Tree, error) {
	return w.ReadSince(ctx, limits, "")
}

// ReadSince sends version as If-None-Match. It does not remember the entity tag itself: the caller passes the version of the
// active bundle, so that a bundle that could not be activated is sent again (opa#2220).
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
		return nil, "", fault("", "the server compresses the bundle a second time (%s)", shown(resp.Header.Get("Content-Encoding"))).
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
	req.Header.Set("Accept", "application/gzip, application/vnd.openpolicyagent.bundles, application/byte-stream")
	req.Header.Set("Prefer", "modes=snapshot") // asks OPA's bundle services for whole bundles
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

// readBody reads a response of at most limit bytes. size is the Content-Length; below 0: unknown.
func readBody(ctx context.Context, body io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fault("", "%d bytes; at most %d are read", size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, netFault(ctx, err)
	}
	if int64(len(data)) > limit {
		return nil, fault("", "more than %d bytes", limit)
	}
	return data, nil
}
