package bundles

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	blob "oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/postern-mail/postern/internal/netaddr"
)

// image is a bundle in an OCI registry, in the form that OPA's tools use: the tarball is the manifest's layer of type
// application/vnd.oci.image.layer.v1.tar+gzip.
type image struct {
	reference registry.Reference
	remote    Remote
}

func newRegistry(address *url.URL, r Remote) (Source, error) {
	name := strings.TrimPrefix(address.String(), "oci://")
	reference, err := registry.ParseReference(name)
	if err != nil || address.RawQuery != "" {
		return nil, &LoadError{Source: address.Redacted(), Message: "is not a reference to an image", Hint: "write oci://registry/repository:tag", Err: err}
	}
	if reference.Reference == "" {
		return nil, &LoadError{Source: address.Redacted(), Message: "names neither a tag nor a digest", Hint: "write oci://registry/repository:tag"}
	}
	return &image{reference: reference, remote: r}, nil
}

func (i *image) String() string  { return "oci://" + i.reference.String() }
func (i *image) Paths() []string { return nil }

func (i *image) Read(ctx context.Context, limits Limits) (*Tree, error) {
	return i.ReadSince(ctx, limits, "")
}

// ReadSince asks which manifest the tag names now. The manifest's digest is the version.
func (i *image) ReadSince(ctx context.Context, limits Limits, version string) (*Tree, error) {
	ctx, cancel := i.remote.bounded(ctx)
	defer cancel()
	packed, digest, err := i.pull(ctx, limits.orDefault().File, version)
	if err == ErrUnchanged {
		return nil, err
	}
	if err != nil {
		return nil, from(i.String(), registryFault(ctx, err))
	}
	tree, err := Unpack(bytes.NewReader(packed), limits)
	if err != nil {
		return nil, from(i.String(), err)
	}
	tree.Version = digest
	return tree, nil
}

// Bounds of a manifest and of the indexes that lead to it.
const (
	maxManifest      = 1 << 20
	maxIndexDepth    = 3
	maxIndexChildren = 32
)

func (i *image) pull(ctx context.Context, limit int64, version string) ([]byte, string, error) {
	repository, err := i.repository()
	if err != nil {
		return nil, "", err
	}
	root, err := repository.Resolve(ctx, i.reference.Reference)
	if err != nil {
		return nil, "", err
	}
	if root.Digest.String() == version {
		return nil, "", ErrUnchanged
	}
	layer, err := bundleLayer(ctx, repository, root, 0)
	if err != nil {
		return nil, "", err
	}
	packed, err := fetch(ctx, repository.Blobs(), layer, limit)
	return packed, root.Digest.String(), err
}

// repository returns the client of ORAS, which OPA uses, too.
func (i *image) repository() (*remote.Repository, error) {
	client, err := i.remote.client()
	if err != nil {
		return nil, err
	}
	secret, err := i.remote.secret()
	if err != nil {
		return nil, err
	}
	login := auth.Credential{AccessToken: secret}
	if i.remote.Username != "" {
		login = auth.Credential{Username: i.remote.Username, Password: secret}
	}
	host := i.reference.Host()
	here := (&url.URL{Host: host}).Hostname()
	return &remote.Repository{
		Reference: i.reference,
		PlainHTTP: i.remote.Insecure || i.remote.CA == "" && netaddr.IsLoopback(here),
		Client: &auth.Client{Client: client, Header: http.Header{"User-Agent": {userAgent}}, Cache: auth.NewCache(),
			Credential: auth.StaticCredential(host, login)},
		MaxMetadataBytes: maxManifest,
	}, nil
}

// bundleLayer returns the tarball's layer of a manifest, or of the first manifest of an index that has one.
func bundleLayer(ctx context.Context, from blob.Fetcher, at ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	text, err := fetch(ctx, from, at, maxManifest)
	if err != nil {
		return none, err
	}
	var manifest struct {
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return none, fault("", "the registry's manifest is not JSON: %v", err).because(err)
	}
	var types []string
	for _, l := range manifest.Layers {
		if l.MediaType == ocispec.MediaTypeImageLayerGzip {
			return l, nil
		}
		types = append(types, shown(l.MediaType))
	}
	if len(types) > 5 { // the registry decides how many there are
		types = append(types[:5], "...")
	}
	missing := fault("", "the image has no layer of type %s; its layers are %s", ocispec.MediaTypeImageLayerGzip, cmp.Or(strings.Join(types, ", "), "none")).
		hint("push it with: oras push REFERENCE bundle.tar.gz:%s", ocispec.MediaTypeImageLayerGzip)
	if depth >= maxIndexDepth || len(manifest.Manifests) > maxIndexChildren {
		return none, missing
	}
	for _, child := range manifest.Manifests {
		// Builders attach manifests with metadata about the image. They have no platform and never hold a bundle.
		if p := child.Platform; p != nil && p.OS == "unknown" {
			continue
		}
		layer, err := bundleLayer(ctx, from, child, depth+1)
		var load *LoadError
		if err == nil || !errors.As(err, &load) {
			return layer, err
		}
	}
	return none, missing
}

// fetch reads what a descriptor names and compares it with the digest. Memory grows with what is received, because the size in
// the descriptor may be wrong.
func fetch(ctx context.Context, from blob.Fetcher, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fault("", "%d bytes; at most %d are read", d.Size, limit)
	}
	body, err := from.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	verified := blob.NewVerifyReader(body, d)
	data, err := io.ReadAll(verified)
	if err == nil {
		err = verified.Verify()
	}
	if errors.Is(err, blob.ErrMismatchedDigest) || errors.Is(err, blob.ErrTrailingData) {
		return nil, fault("", "the registry sends content that does not match the manifest").because(err)
	}
	return data, err
}

// registryFault turns the error of a registry into a fault.
func registryFault(ctx context.Context, err error) error {
	var answer *errcode.ErrorResponse
	switch {
	case errors.As(err, &answer):
		return statusFault(answer.StatusCode).because(err)
	case errors.Is(err, errdef.ErrNotFound):
		return statusFault(http.StatusNotFound).because(err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return statusFault(http.StatusUnauthorized).because(err)
	}
	return netFault(ctx, err)
}
