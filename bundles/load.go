package bundles

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// Loader loads candidates. It keeps what it parsed, so that the next load parses only what has changed. Only one goroutine may
// use it at a time.
type Loader struct {
	Source Source
	// Data names extra data documents (YAML or JSON objects), which are merged over the bundle's data in this order: objects
	// key by key; of any other two values, the later one stays.
	Data   []string
	Limits Limits
	// Verify says whose signature a bundle must have. nil: signatures are ignored.
	Verify *Verification

	modules   map[cacheKey]*ast.Module
	documents map[cacheKey]any
	kept      *Tree // of the active candidate, if the source is Versioned
}

// cacheKey identifies parsed content. The path is part of it because a parsed module holds its path.
type cacheKey struct {
	path, hash string
	version    ast.RegoVersion
	own        bool // one of the operator's documents
}

// Load reads a source and its extra data documents once. Errors are *LoadError.
func Load(ctx context.Context, source Source, data ...string) (*Candidate, error) {
	l := &Loader{Source: source, Data: data}
	return l.Load(ctx)
}

// Load reads and parses the source as it is now. Errors are *LoadError.
func (l *Loader) Load(ctx context.Context) (*Candidate, error) {
	raw, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	return l.parse(ctx, raw)
}

// read reads the source and the documents. Where a Versioned source fails, the documents are read over the active tree, and
// the content is marked as stale: a server that is down must not stop changes of the operator's own documents.
func (l *Loader) read(ctx context.Context) (*content, error) {
	tree, stale := l.tree(ctx)
	if stale != nil && (l.kept == nil || ctx.Err() != nil) {
		return nil, stale
	}
	if stale != nil {
		tree = l.kept
	}
	documents, err := readDocuments(ctx, l.Data, l.Limits)
	switch {
	case err != nil && stale != nil:
		return nil, errors.Join(stale, err)
	case err != nil:
		return nil, err
	}
	raw := newContent(tree, documents)
	raw.stale = stale
	return raw, nil
}

func (l *Loader) tree(ctx context.Context) (tree *Tree, err error) {
	limits := l.Limits
	limits.Others = l.Verify != nil
	if source, ok := l.Source.(Versioned); ok && l.kept != nil {
		tree, err = source.ReadSince(ctx, limits, l.kept.Version)
	} else {
		tree, err = l.Source.Read(ctx, limits)
	}
	if errors.Is(err, ErrUnchanged) {
		return l.kept, nil
	}
	return tree, from(l.Source.String(), err)
}

// keep remembers the tree of the active candidate.
func (l *Loader) keep(tree *Tree) {
	if _, ok := l.Source.(Versioned); ok {
		l.kept = tree
	}
}

func (l *Loader) parse(ctx context.Context, raw *content) (*Candidate, error) {
	c := &Candidate{Source: l.Source.String(), Files: map[string]string{}, ContentHash: raw.hash, Ignored: raw.tree.Ignored}
	p := &parse{loader: l, candidate: c, depth: l.Limits.orDefault().Depth,
		modules: map[cacheKey]*ast.Module{}, documents: map[cacheKey]any{}}
	if l.Verify != nil {
		if err := p.verify(l.Verify, raw.tree); err != nil {
			return nil, &Refusal{StageSignature, from(c.Source, err)}
		}
	}
	p.ahead = make([]parsedDocument, len(raw.documents))
	if err := p.bundle(ctx, raw.tree, raw.documents); err != nil {
		return nil, from(c.Source, err)
	}
	own := *c.Bundle
	c.Own = &own
	c.OwnHash = p.modulesHash.sum() + p.dataHash.sum()
	extra, err := p.extra(raw.documents)
	if err != nil {
		return nil, err
	}
	c.ModulesHash, c.DataHash = p.modulesHash.sum(), p.dataHash.sum()
	c.Revision = c.Bundle.Manifest.Revision
	switch {
	case c.Revision == "":
		c.Revision = c.ContentHash[:16]
	case extra != "":
		c.Revision += "+data." + extra[:8]
	}
	l.modules, l.documents = p.modules, p.documents
	return c, nil
}

// parse is one run over a candidate's content. If it succeeds, its caches become the loader's.
type parse struct {
	loader                *Loader
	candidate             *Candidate
	depth                 int
	modules               map[cacheKey]*ast.Module
	documents             map[cacheKey]any
	modulesHash, dataHash digest

	ahead []parsedDocument // the operator's documents, in their order, which were parsed beside the modules
}

// parsedDocument is a result of parseDocument.
type parsedDocument struct {
	done  bool
	value any
	err   error
}

func (p *parse) bundle(ctx context.Context, tree *Tree, documents []File) error {
	manifest, err := readManifest(tree.Files, p.depth)
	if err != nil {
		return err
	}
	b := &bundle.Bundle{Manifest: manifest, Data: map[string]any{}}
	p.candidate.Bundle = b
	var modules []File
	for _, f := range tree.Files {
		p.candidate.Files[f.Path] = f.Hash
		switch kindOf(f.Path) {
		case kindModule:
			modules = append(modules, f)
		case kindData:
			value, err := p.document(f.Path, f, parsedDocument{}, false)
			if err != nil {
				return err
			}
			merged, clash := place(b.Data, f.Path, value)
			if clash != nil {
				return clash
			}
			b.Data = merged
			p.dataHash.add("bundle", f.Path, f.Hash)
		case kindSignatures:
			if err := json.Unmarshal(f.Data, &b.Signatures); err != nil {
				return fault(f.Path, "%v", err).because(err)
			}
		case kindForeign:
			return fault(f.Path, "this kind of bundle is not supported").
				hint("build one with the target rego and a JSON manifest, not a delta")
		}
	}
	if at := outside(*manifest.Roots, b.Data); at != "" {
		return inManifest(tree.Files, fault(".manifest", "the roots %q do not permit the data at %s", *manifest.Roots, at).
			hint("add it to the roots, or move the data file"), `"roots"`)
	}
	if len(modules) == 0 {
		return fault("", "there is no .rego file").hint("is this the right place?")
	}
	return p.parseModules(ctx, modules, documents)
}

// parseModules parses the modules that are not in the cache on all processors. The operator's documents, which may be large,
// are parsed at the same time.
func (p *parse) parseModules(ctx context.Context, files, documents []File) error {
	b := p.candidate.Bundle
	b.Modules = make([]bundle.ModuleFile, len(files))
	keys := make([]cacheKey, len(files))
	var missing []int
	for i, f := range files {
		version, err := regoVersion(&b.Manifest, f.Path)
		if err != nil {
			return err
		}
		keys[i] = cacheKey{path: f.Path, hash: f.Hash, version: version}
		p.modulesHash.add(f.Path, f.Hash, strconv.Itoa(version.Int()))
		b.Modules[i] = bundle.ModuleFile{URL: f.Path, Path: f.Path, RelativePath: f.Path, Raw: f.Data}
		if b.Modules[i].Parsed = p.loader.modules[keys[i]]; b.Modules[i].Parsed == nil {
			missing = append(missing, i)
		}
	}
	faults := make([][]*LoadError, len(files))
	parallel(len(documents)+len(missing), func(n int) {
		switch {
		case ctx.Err() != nil:
		case n < len(documents):
			p.ahead[n] = p.parseAhead(documents[n])
		default:
			i := missing[n-len(documents)]
			b.Modules[i].Parsed, faults[i] = parseModule(files[i], keys[i].version)
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	var all []*LoadError
	for i, f := range files {
		module := b.Modules[i].Parsed
		if all = append(all, faults[i]...); module == nil {
			continue
		}
		p.modules[keys[i]] = module
		if !permits(&b.Manifest, module) {
			all = append(all, fault(f.Path, "the roots %q of the manifest do not permit %v", *b.Manifest.Roots, module.Package).
				at(f.Data, module.Package.Location.Row, module.Package.Location.Col))
		}
	}
	return join(all)
}

func parseModule(f File, version ast.RegoVersion) (module *ast.Module, faults []*LoadError) {
	defer func() {
		if r := recover(); r != nil {
			module, faults = nil, []*LoadError{fault(f.Path, "cannot be parsed: %v", r)}
		}
	}()
	module, err := ast.ParseModuleWithOpts(f.Path, string(f.Data), ast.ParserOptions{ProcessAnnotation: true, RegoVersion: version})
	if err != nil {
		return nil, parseFaults(f.Path, f.Data, err)
	}
	if module == nil {
		return nil, []*LoadError{fault(f.Path, "is empty").hint("begin it with: package NAME")}
	}
	return module, nil
}

// extra merges the extra data documents over the bundle's data. It returns their hash; "" if there are none.
func (p *parse) extra(files []File) (string, error) {
	var own digest
	for i, f := range files {
		value, err := p.document("", f, p.ahead[i], true)
		if err != nil {
			return "", from(f.Path, err)
		}
		object, ok := root(value)
		if !ok {
			return "", &LoadError{Source: f.Path, Line: 1, Text: lineOf(f.Data, 1), Message: "a data document must hold an object",
				Hint: "for example: senders: {alice: [alice@example.com]}"}
		}
		p.candidate.Bundle.Data = overlay(p.candidate.Bundle.Data, object)
		p.candidate.Files[f.Path] = f.Hash
		p.dataHash.add("document", f.Path, f.Hash)
		own.add("document", f.Path, f.Hash)
	}
	if len(files) == 0 {
		return "", nil
	}
	return own.sum(), nil
}

// parseAhead parses one of the operator's documents that is not in the cache. Several goroutines may call it at the same time.
func (p *parse) parseAhead(f File) (out parsedDocument) {
	defer func() {
		if r := recover(); r != nil {
			out = parsedDocument{done: true, err: fault(f.Path, "cannot be parsed: %v", r)}
		}
	}()
	if _, known := p.loader.documents[f.key(true)]; !known {
		out.done = true
		out.value, out.err = parseDocument(f.Path, f.Data, p.depth, true)
	}
	return out
}

func (f File) key(own bool) cacheKey { return cacheKey{path: f.Path, hash: f.Hash, own: own} }

// document returns a data document from the cache, from what was parsed ahead, or by parsing it. name is the name of the file
// within its source, for errors. own says that it is one of the operator's.
func (p *parse) document(name string, f File, ahead parsedDocument, own bool) (any, error) {
	key := f.key(own)
	value, ok := p.documents[key]
	if !ok {
		value, ok = p.loader.documents[key]
	}
	if !ok {
		if !ahead.done {
			ahead.value, ahead.err = parseDocument(f.Path, f.Data, p.depth, own)
		}
		if value = ahead.value; ahead.err != nil {
			if load, ok := ahead.err.(*LoadError); ok {
				load.File = name
			}
			return nil, ahead.err
		}
	}
	p.documents[key] = value
	return value, nil
}

// verify holds every file of a tree against the signature, and what is structured as it was parsed: what has been verified is
// what decides.
func (p *parse) verify(v *Verification, tree *Tree) error {
	signed, err := v.signed(tree)
	if err != nil {
		return err
	}
	var faults []*LoadError
	covered := 0
	for _, f := range slices.Concat(tree.Files, tree.Others) {
		info, ok := signed[f.Path]
		delete(signed, f.Path)
		switch {
		case f.Path == signaturesFile || v.excludes(f.Path):
			continue
		case !ok:
			faults = append(faults, fault(f.Path, "is not covered by the signature").hint("sign the bundle again, or remove the file"))
			continue
		}
		covered++
		if fault := p.held(f, info); fault != nil {
			faults = append(faults, fault)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(signed)) {
		// `opa sign .` lists an older signature as signatures.json, because it drops the dot of the directory.
		if !skipped(name) && "."+name != signaturesFile {
			faults = append(faults, fault(shown(name), "is covered by the signature, but is missing").hint("sign the bundle again, or put the file back"))
		}
	}
	if covered == 0 && len(faults) > 0 {
		if top := commonTop(signed); top != "" {
			return fault(signaturesFile, "was made for files under %s/, not for the files of the bundle", shown(top)).because(errSignature).
				hint("sign within the bundle: cd DIRECTORY && opa sign --bundle --signing-key KEY .")
		}
	}
	for _, f := range faults {
		f.Err = errSignature
	}
	return join(faults)
}

// held compares a file with its hash in the signature.
func (p *parse) held(f File, info bundle.FileInfo) *LoadError {
	if info.Algorithm == string(bundle.MD5) || info.Algorithm == string(bundle.SHA1) {
		return fault(f.Path, "is signed by its %s only, which can be forged", info.Algorithm).hint("sign the bundle with a current opa")
	}
	hasher, err := bundle.NewSignatureHasher(bundle.HashingAlgorithm(info.Algorithm))
	if err != nil {
		return fault(f.Path, "cannot compute its hash in the signature: %v", err)
	}
	var value any = f.Data
	if bundle.IsStructuredDoc(f.Path) {
		if value, err = p.document(f.Path, f, parsedDocument{}, false); err != nil {
			var load *LoadError
			if errors.As(err, &load) {
				return load
			}
			return fault(f.Path, "%v", err)
		}
	}
	got, err := hasher.HashFile(value)
	if want, bad := hex.DecodeString(info.Hash); err != nil || bad != nil || !bytes.Equal(got, want) {
		return fault(f.Path, "is not what was signed").hint("it was changed afterwards; if you changed it, sign the bundle again")
	}
	return nil
}
