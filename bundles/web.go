package bundles

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
)

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
