package bundles

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"reflect"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
)

// readManifest reads .manifest. A bundle without one owns all paths.
func readManifest(files []File, depth int) (bundle.Manifest, error) {
	var m bundle.Manifest
	for _, f := range files {
		if kindOf(f.Path) != kindManifest {
			continue
		}
		if f.Path != ".manifest" {
			return m, fault(f.Path, "a manifest must be at the root of the bundle").
				hint("name %s as the bundle, or remove the file", path.Dir(f.Path))
		}
		if _, err := parseJSON(f.Path, f.Data, depth, 0, false); err != nil {
			return m, err
		}
		d := json.NewDecoder(bytes.NewReader(f.Data))
		d.UseNumber() // as OPA
		if err := d.Decode(&m); err != nil {
			return m, manifestFault(f, err)
		}
	}
	m.Init()
	if wrong := checkManifest(&m); wrong != nil {
		return m, inManifest(files, wrong, wrong.about)
	}
	return m, nil
}

// manifestFault turns an error of the JSON decoder into a fault.
func manifestFault(f File, err error) *LoadError {
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) {
		return fault(f.Path, "%s", strings.TrimPrefix(err.Error(), "json: ")).because(err)
	}
	want := "an object"
	switch kind.Type.Kind() {
	case reflect.String:
		want = "a string"
	case reflect.Slice:
		want = "a list"
	case reflect.Int:
		want = "a number"
	}
	return fault(f.Path, "%s must be %s and is of type %s", kind.Field, want, kind.Value).because(err).atOffset(f.Data, int(kind.Offset)-1)
}

// inManifest places a fault where text is found in the manifest, if it is found.
func inManifest(files []File, wrong *LoadError, text string) *LoadError {
	for _, f := range files {
		if f.Path != ".manifest" {
			continue
		}
		if i := bytes.Index(f.Data, []byte(text)); i >= 0 && text != "" {
			return wrong.atOffset(f.Data, i)
		}
	}
	return wrong
}

func checkManifest(m *bundle.Manifest) *LoadError {
	const file = ".manifest"
	if len(m.WasmResolvers) > 0 {
		return fault(file, "compiled (wasm) bundles are not supported").hint("build it with the target rego").found(`"wasm"`)
	}
	if len(m.Revision) > 256 {
		return fault(file, "the revision is longer than 256 bytes").found(`"revision"`)
	}
	roots := *m.Roots
	for i := range roots {
		roots[i] = strings.Trim(roots[i], "/")
		for _, other := range roots[:i] {
			if bundle.RootPathsOverlap(other, roots[i]) {
				return fault(file, "the roots %q and %q overlap", other, roots[i]).hint("keep the shorter one").
					found(strconv.Quote(roots[i]))
			}
		}
	}
	versions := []int{}
	if m.RegoVersion != nil {
		versions = append(versions, *m.RegoVersion)
	}
	for _, v := range m.FileRegoVersions {
		versions = append(versions, v)
	}
	for _, v := range versions {
		if _, err := ast.RegoVersionFromIntStrict(v); err != nil {
			return fault(file, "unknown rego_version %d", v).because(err).hint("use 1").found(`"rego_version"`)
		}
	}
	return nil
}

// permits reports whether the manifest's roots permit a module's package.
func permits(m *bundle.Manifest, module *ast.Module) bool {
	at, err := storage.NewPathForRef(module.Package.Path)
	return err == nil && bundle.RootPathsContain(*m.Roots, strings.Join(at, "/"))
}

// regoVersion returns the language version of a file: the manifest's version for the file, the manifest's default, or version
// 1. The patterns in a manifest that `opa build` wrote begin with a slash.
func regoVersion(m *bundle.Manifest, file string) (ast.RegoVersion, error) {
	v, err := m.RegoVersionForFile("/" + file)
	if err != nil {
		return v, fault(".manifest", "%v", err).because(err)
	}
	if v == ast.RegoUndefined {
		v = ast.RegoV1
	}
	return v, nil
}
