package bundles

import (
	"bytes"
	"encoding/json"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
)

// readManifest reads .manifest; without one the bundle owns everything.
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
		if _, err := parseJSON(f.Path, f.Data, depth); err != nil {
			return m, err
		}
		d := json.NewDecoder(bytes.NewReader(f.Data))
		d.UseNumber() // as OPA
		if err := d.Decode(&m); err != nil {
			return m, fault(f.Path, "%s", strings.TrimPrefix(err.Error(), "json: ")).because(err)
		}
	}
	m.Init()
	return m, checkManifest(&m)
}

func checkManifest(m *bundle.Manifest) error {
	const file = ".manifest"
	if len(m.WasmResolvers) > 0 {
		return fault(file, "compiled (wasm) bundles are not supported").hint("build it with the target rego")
	}
	if len(m.Revision) > 256 {
		return fault(file, "the revision is longer than 256 octets")
	}
	roots := *m.Roots
	for i := range roots {
		roots[i] = strings.Trim(roots[i], "/")
		for _, other := range roots[:i] {
			if bundle.RootPathsOverlap(other, roots[i]) {
				return fault(file, "the roots %q and %q overlap", other, roots[i]).hint("keep the shorter one")
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
			return fault(file, "unknown rego_version %d", v).because(err).hint("use 1")
		}
	}
	return nil
}

// permits reports whether the manifest's roots permit a module's package.
func permits(m *bundle.Manifest, module *ast.Module) bool {
	at, err := storage.NewPathForRef(module.Package.Path)
	return err == nil && bundle.RootPathsContain(*m.Roots, strings.Join(at, "/"))
}

// regoVersion is the language version of a file: the manifest's for it, its default, or version 1. The patterns of a
// manifest that `opa build` wrote begin with a slash.
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
