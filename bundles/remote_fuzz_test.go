package bundles

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/open-policy-agent/opa/v1/bundle"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// FuzzSignature checks that a bundle is accepted only if its token was made with the secret, which is verified here without OPA, and
// if the token holds the hash of the file. .signatures.json may hold anything.
func FuzzSignature(f *testing.F) {
	const secret = "0123456789abcdef0123456789abcdef"
	s, other := newSecretSigner(f, secret), newSecretSigner(f, strings.Repeat("other", 8))
	for _, by := range []*signer{s, other} {
		for _, claims := range []map[string]any{nil, {"scope": "write"}, {"keyid": "main"}} {
			for _, hash := range []bundle.HashingAlgorithm{bundle.SHA256, bundle.SHA512, bundle.MD5} {
				files := map[string]string{"a.rego": module}
				by.signAs(f, files, claims, hash)
				f.Add(files[signaturesFile], module)
				f.Add(files[signaturesFile], module+"\n# more\n")
			}
		}
	}
	b64 := base64.RawURLEncoding.EncodeToString
	none := b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"files":[{"name":"a.rego","hash":"00"}]}`)) + "."
	for _, text := range []string{`{"signatures":["` + none + `"]}`, `{"signatures":[]}`, `{"signatures":["a","b"]}`, `{"signatures":["..."],"plugin":"x"}`, `{"signatures":[1]}`, `null`, `{"Signatures":["a.b.c"]}`} {
		f.Add(text, module)
	}
	f.Fuzz(func(t *testing.T, signatures, text string) {
		tree := &Tree{Files: []File{newFile(signaturesFile, []byte(signatures)), newFile("a.rego", []byte(text))}}
		l := &Loader{Source: FS(nil, "fuzz"), Verify: &Verification{Keys: map[string]Key{"main": s.key}}}
		_, err := l.parse(context.Background(), &content{tree: tree, hash: strings.Repeat("0", 64)})
		var load *LoadError
		if err != nil {
			if !errors.As(err, &load) || load.Message == "" {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if !signedWith(secret, signatures, text) {
			t.Fatalf("%q was taken for a signature of %q", signatures, text)
		}
	})
}

// signedWith checks a token by itself (RFC 7515 §5.2).
func signedWith(secret, signatures, text string) bool {
	var all struct{ Signatures []string }
	if json.Unmarshal([]byte(signatures), &all) != nil || len(all.Signatures) != 1 {
		return false
	}
	part := strings.Split(all.Signatures[0], ".")
	if len(part) != 3 {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(part[0] + "." + part[1]))
	said, err := base64.RawURLEncoding.DecodeString(part[2])
	payload, perr := base64.RawURLEncoding.DecodeString(part[1])
	sum := sha256.Sum256([]byte(text))
	return err == nil && perr == nil && hmac.Equal(said, mac.Sum(nil)) && (bytes.Contains(payload, []byte(godigest.Digest(godigest.NewDigestFromBytes(godigest.SHA256, sum[:])).Encoded())) || bytes.Contains(payload, []byte("SHA-512")))
}

// FuzzManifest: a manifest is JSON that names roots which do not overlap, and each module that is taken is within one of them; or
// the error says what is wrong with it.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{`{"revision":"r","roots":["postern"]}`, `{"roots":["a","a/b"]}`, `{"roots":["x"]}`, `{"roots":[]}`, `{"roots":null}`, `{"rego_version":0}`, `{"rego_version":7}`, `{"file_rego_versions":{"/a*":1}}`, `{"file_rego_versions":{"[":1}}`, `{"wasm":[{}]}`,
		`{"metadata":{"a":[1,{}]}}`, `{"roots":["/postern/"]}`, `{"revision":1}`, `{"revision":"a","revision":"b"}`, `{} {}`, `[]`, `{"roots":["..","","//"]}`, `{"revision":"\u001b[2J\n"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, manifest []byte) {
		if len(manifest) > 4096 {
			return
		}
		tree := &Tree{Files: []File{newFile(".manifest", manifest), newFile("a.rego", []byte(module))}}
		l := &Loader{Source: FS(nil, "fuzz")}
		c, err := l.parse(context.Background(), &content{tree: tree, hash: strings.Repeat("0", 64)})
		var load *LoadError
		if err != nil {
			if !errors.As(err, &load) || load.Message == "" {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		var plain struct {
			Revision string
			Roots    *[]string
		}
		if err := json.Unmarshal(manifest, &plain); err != nil || len(c.Revision) > 256 || plain.Revision != "" && c.Revision != plain.Revision {
			t.Fatalf("%q: %v, revision %q", manifest, err, c.Revision)
		}
		within := plain.Roots == nil
		name := strings.TrimPrefix(c.Bundle.Modules[0].Parsed.Package.Path.String(), "data.")
		for i := 0; plain.Roots != nil && i < len(*plain.Roots); i++ {
			root := strings.Trim((*plain.Roots)[i], "/")
			within = within || root == "" || strings.HasPrefix(strings.ReplaceAll(name, ".", "/")+"/", root+"/")
		}
		if !within {
			t.Fatalf("%q: %s was taken", manifest, name)
		}
	})
}

// FuzzWeb checks that any response of a web server gives a tree with the version that the server named, which can be sent again, or
// an error that can be logged. It never takes more memory than a file may have.
func FuzzWeb(f *testing.F) {
	packed := string(packed(f, regular("/a.rego", module)))
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nETag: \"1\"\r\n\r\n" + packed, "HTTP/1.1 200 OK\r\nETag: W/\"\x01\xff\"\r\nContent-Length: 5\r\n\r\n" + packed, "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed, "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", "HTTP/1.1 401 \x1b[2J\r\nWWW-Authenticate: Basic\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx", "HTTP/1.0 500 x\r\n\r\n", "SSH-2.0\r\n", "HTTP/1.1 200 OK\r\nETag: a\r\nETag: b\r\n\r\n" + packed,
		"HTTP/1.1 200 OK\r\nETag:  \" a\tb \" \r\n\r\n" + packed, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + packed, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\x1f\r\n0\r\nETag: \"late\"\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { listener.Close() })
	var answer atomic.Pointer[[]byte]
	asked := make(chan string, 16)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := c.Read(b)
			asked <- string(b[:n])
			_, _ = c.Write(*answer.Load())
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	w := &web{address: &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/b.tar.gz"}, remote: Remote{Timeout: 5 * time.Second}}
	f.Fuzz(func(t *testing.T, text []byte) {
		answer.Store(&text)
		version := ""
		for range 2 {
			tree, err := w.ReadSince(context.Background(), Limits{File: 1 << 16, Total: 1 << 17, Files: 50}, version)
			heard := ""
			for len(asked) > 0 {
				heard += <-asked
			}
			if version != "" && !strings.Contains(heard, "If-None-Match: "+version+"\r\n") {
				t.Fatalf("%q: the server named the version %q, and was asked %q: %v", text, version, heard, err)
			}
			if err == ErrUnchanged {
				if version == "" {
					t.Fatalf("%q: unchanged, but nothing is known", text)
				}
				return
			}
			var load *LoadError
			if err != nil {
				if !errors.As(err, &load) || strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 4096 {
					t.Fatalf("%q: %T %q", text, err, err)
				}
				return
			}
			if len(tree.Version) > maxHeader || strings.ContainsAny(tree.Version, "\r\n\x00") {
				t.Fatalf("%q: version %q", text, tree.Version)
			}
			version = tree.Version
		}
	})
}

// shelves gives the same text for every descriptor that names it, and nothing for others.
type shelves struct {
	text    []byte
	fetched int
}

func (s *shelves) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if s.fetched++; d.Size < 0 || strings.HasPrefix(d.Digest.String(), "none") {
		return nil, errdef.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(s.text)), nil
}

// FuzzImage checks that any manifest of a registry gives the layer of a bundle, or an error that can be logged, after a bounded number
// of requests.
func FuzzImage(f *testing.F) {
	for _, s := range []string{
		`{"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7}]}`, `{"manifests":[{"digest":"bogus","size":1}]}`, `{"manifests":[{"digest":"md9:00","size":1},{"digest":"","size":-1}]}`,
		`{"layers":[{"mediaType":"\u001b[2J"}],"manifests":null}`, `[]`, `{"manifests":[{"platform":{"os":"unknown"}}]}`, `{"layers":[` + strings.Repeat(`{"mediaType":"x/y"},`, 60) + `{"size":1e99}]}`, `{"layers":[` + strings.Repeat(`{"mediaType":"x/y"},`, 300) + `{}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &shelves{text: text}
		root := ocispec.Descriptor{Digest: godigest.FromBytes(text), Size: int64(len(text))}
		layer, err := bundleLayer(context.Background(), s, root, 0)
		if s.fetched > 1+maxIndexChildren*(1+maxIndexChildren*(1+maxIndexChildren)) {
			t.Fatalf("%d requests", s.fetched)
		}
		if err == nil {
			if layer.MediaType != ocispec.MediaTypeImageLayerGzip {
				t.Fatalf("%q: %+v", text, layer)
			}
			_, err = fetch(context.Background(), s, layer, 1<<16)
		}
		if err != nil {
			if said := from("oci://x", registryFault(context.Background(), err)).Error(); len(said) > 4096 || strings.ContainsFunc(said, unicode.IsControl) {
				t.Fatalf("%q: %q", text, said)
			}
		}
	})
}
