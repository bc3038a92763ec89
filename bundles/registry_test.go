package bundles

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// hub is a registry in this process, as far as pulling goes: the distribution API's manifests and blobs, and tokens.
type hub struct {
	*httptest.Server
	t testing.TB

	mu     sync.Mutex
	tags   map[string]godigest.Digest
	blobs  map[godigest.Digest][]byte
	types  map[godigest.Digest]string
	login  string // "user:password" that the token service requires; "": none
	broken func(http.ResponseWriter, *http.Request) bool
	pulled int // blobs
}

func newHub(t testing.TB) *hub {
	t.Helper()
	h := &hub{t: t, tags: map[string]godigest.Digest{}, blobs: map[godigest.Digest][]byte{}, types: map[godigest.Digest]string{}}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil && h.broken(w, r) {
		return
	}
	if r.URL.Path == "/token" {
		if user, password, _ := r.BasicAuth(); user+":"+password != h.login {
			w.WriteHeader(401)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"token": "issued"})
		return
	}
	if h.login != "" && r.Header.Get("Authorization") != "Bearer issued" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="hub"`, h.URL))
		w.WriteHeader(401)
		return
	}
	kind, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/mail/policy/"), "/")
	at, tagged := h.tags[name]
	if !tagged {
		at = godigest.Digest(name)
	}
	text, found := h.blobs[at]
	if !ok || !found || (kind == "blobs") != (h.types[at] == "") {
		w.WriteHeader(404)
		return
	}
	if kind == "blobs" {
		h.pulled++
	}
	w.Header().Set("Docker-Content-Digest", at.String())
	w.Header().Set("Content-Type", h.types[at])
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	if r.Method != http.MethodHead {
		w.Write(text)
	}
}

// put stores content; mediaType "": a blob.
func (h *hub) put(mediaType string, text []byte) godigest.Digest {
	d := godigest.FromBytes(text)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[d], h.types[d] = text, mediaType
	return d
}

// push is `oras push`: a manifest with one layer, under a tag.
func (h *hub) push(tag, layerType string, packed []byte) godigest.Digest {
	h.t.Helper()
	layer := h.put("", packed)
	config := h.put("", []byte("{}"))
	manifest, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: config, Size: 2},
		Layers: []ocispec.Descriptor{{MediaType: layerType, Digest: layer, Size: int64(len(packed))}}})
	if err != nil {
		h.t.Fatal(err)
	}
	d := h.put(ocispec.MediaTypeImageManifest, manifest)
	h.mu.Lock()
	defer h.mu.Unlock()
	if tag != "" {
		h.tags[tag] = d
	}
	return d
}

func (h *hub) pushFiles(tag string, files map[string]string) godigest.Digest {
	h.t.Helper()
	return h.push(tag, ocispec.MediaTypeImageLayerGzip, packed(h.t, tarOf(files)...))
}

func (h *hub) source(reference string, r Remote) Source {
	h.t.Helper()
	source, err := Open("oci://"+strings.TrimPrefix(h.URL, "http://")+"/mail/policy"+reference, r)
	if err != nil {
		h.t.Fatal(err)
	}
	return source
}

// TestRegistry follows a tag.
func TestRegistry(t *testing.T) {
	h := newHub(t)
	first := h.pushFiles("live", map[string]string{"a.rego": rule("one")})
	o := watch(t, h.source(":live", Remote{}), func(w *Watcher) { w.Poll, w.Settle = 10*time.Millisecond, time.Millisecond })
	o.untilRule("one")
	if v := o.w.loaderVersion(); v != first.String() {
		t.Errorf("version %s", v)
	}
	time.Sleep(100 * time.Millisecond) // polls that find nothing
	h.mu.Lock()
	if h.pulled != 1 {
		t.Errorf("the same bundle was pulled %d times", h.pulled)
	}
	h.mu.Unlock()
	h.pushFiles("live", map[string]string{"a.rego": rule("two")})
	o.untilRule("two")
	h.pushFiles("live", map[string]string{"a.rego": "package broken {"})
	o.until("the refusal", func() bool { r := o.w.Refused(); return r != nil && r.Stage == StageLoad })
	h.mu.Lock()
	h.tags["live"] = first // roll back
	h.mu.Unlock()
	o.untilRule("one")
	pinned, err := h.source("@"+first.String(), Remote{}).Read(context.Background(), Limits{})
	if err != nil || !strings.Contains(string(pinned.Files[0].Data), "one") {
		t.Errorf("by digest: %v", err)
	}
}

func TestRegistryIndex(t *testing.T) {
	h := newHub(t)
	attestation := h.push("", "application/vnd.in-toto+json", []byte("{}"))
	image := h.pushFiles("", map[string]string{"a.rego": rule("one")})
	index, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageManifest, Digest: attestation, Size: int64(len(h.blobs[attestation]))},
		{MediaType: ocispec.MediaTypeImageManifest, Digest: image, Size: int64(len(h.blobs[image]))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.tags["both"] = h.put(ocispec.MediaTypeImageIndex, index)
	tree, err := h.source(":both", Remote{}).Read(context.Background(), Limits{})
	if err != nil || len(tree.Files) != 1 || tree.Version != h.tags["both"].String() {
		t.Errorf("%+v %v", tree, err)
	}
}

func TestRegistryFailures(t *testing.T) {
	good := map[string]string{"a.rego": rule("one")}
	for name, c := range map[string]struct {
		reference string
		broken    func(http.ResponseWriter, *http.Request) bool
		want      string
	}{
		"no such tag": {":none", nil, "the server answers 404 Not Found"},
		"other type":  {":other", nil, "no layer of type application/vnd.oci.image.layer.v1.tar+gzip; its layers are application/zip"},
		"down": {":live", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true },
			"the server answers 503 Service Unavailable"},
		"refused": {":live", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true },
			"the server answers 403 Forbidden (does it want"},
		"other content": {":live", blobs(func(w http.ResponseWriter) {
			whole := packed(t, tarOf(good)...)
			whole[len(whole)-1] ^= 1
			w.Write(whole)
		}), "does not match the manifest"},
		"longer content": {":live", blobs(func(w http.ResponseWriter) { w.Write(append(packed(t, tarOf(good)...), 'x')) }), "does not match the manifest"},
		"shorter content": {":live", blobs(func(w http.ResponseWriter) {
			whole := packed(t, tarOf(good)...)
			w.Write(whole[:len(whole)-1])
		}), "the download was cut short"},
		"manifest is none": {":text", nil, "the registry's manifest is not JSON"},
		"too large":        {":large", nil, "bytes; at most 65536 are read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			h.pushFiles("live", good)
			h.push("other", "application/zip", []byte("x"))
			h.push("large", ocispec.MediaTypeImageLayerGzip, make([]byte, 1<<17))
			h.tags["text"] = h.put(ocispec.MediaTypeImageManifest, []byte("x"))
			h.broken = c.broken
			_, err := h.source(c.reference, Remote{Timeout: 30 * time.Second}).Read(context.Background(), Limits{File: 1 << 16})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "oci://"+strings.TrimPrefix(h.URL, "http://")) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// blobs answers requests for blobs, without a Content-Length.
func blobs(answer func(http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.(http.Flusher).Flush()
		answer(w)
		return true
	}
}

func TestRegistryLogin(t *testing.T) {
	h := newHub(t)
	h.login = "ci:s3cret"
	h.pushFiles("live", map[string]string{"a.rego": rule("one")})
	dir := tempDir(t, map[string]string{"password": "s3cret\n", "wrong": "guess\n", "token": "issued\n"})
	read := func(r Remote) error { _, err := h.source(":live", r).Read(context.Background(), Limits{}); return err }
	if err := read(Remote{Username: "ci", TokenFile: filepath.Join(dir, "password")}); err != nil {
		t.Error(err)
	}
	if err := read(Remote{TokenFile: filepath.Join(dir, "token")}); err != nil {
		t.Errorf("with a token of the registry's own: %v", err)
	}
	for name, r := range map[string]Remote{"nobody": {}, "wrong": {Username: "ci", TokenFile: filepath.Join(dir, "wrong")}} {
		if err := read(r); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRemoteSignature: what comes over the network is verified as what lies on disk is.
func TestRemoteSignature(t *testing.T) {
	key := newSigner(t)
	files := signedFiles()
	key.sign(t, files, nil)
	s, h := newShelf(t, (*httptest.Server).Start), newHub(t)
	load := func(source Source) error {
		_, err := (&Loader{Source: source, Verify: key.trusted()}).Load(context.Background())
		return err
	}
	s.put(files)
	h.pushFiles("live", files)
	for _, source := range []Source{s.source(Remote{}), h.source(":live", Remote{})} {
		if err := load(source); err != nil {
			t.Errorf("%s: %v", source, err)
		}
	}
	files["postern/mail/a.rego"] += "\n"
	s.put(files)
	h.pushFiles("live", files)
	for _, source := range []Source{s.source(Remote{}), h.source(":live", Remote{})} {
		if err := load(source); err == nil || !strings.Contains(err.Error(), source.String()+"/postern/mail/a.rego: is not what was signed") {
			t.Errorf("%s: %v", source, err)
		}
	}
}
