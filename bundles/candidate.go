package bundles

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// Candidate is a bundle that has been read and parsed, with the extra data merged in. It is immutable.
type Candidate struct {
	// Bundle has OPA's own type, with Manifest, Data and Modules. Module.Path is relative to the bundle. Tests are among the
	// modules. A large object in Data is packed: engine.Compile and Policy.WithData take it so; other users call Unpacked.
	Bundle *bundle.Bundle
	// Own is the bundle without the extra data. It is what was signed, and what its tests were written for.
	Own *bundle.Bundle
	// Source is the source as it was configured.
	Source string
	// Revision is the manifest's revision, or the first 16 digits of ContentHash if the manifest has none. With extra data
	// documents, "+data." and the first 8 digits of their hash follow the manifest's revision, so that equal revisions mean
	// equal decisions.
	Revision string
	// Files maps the path of every file that counts, and of every extra document, to its SHA-256 in hex.
	Files map[string]string
	// The hashes are SHA-256 in hex. ContentHash covers all of Files, ModulesHash what is compiled, DataHash what is data. Two
	// candidates with the same ModulesHash differ only in data or metadata, and need no second compilation. OwnHash covers
	// modules and data of Own: if it is the same, so are the results of the tests.
	ContentHash, ModulesHash, DataHash, OwnHash string
	// Ignored are the files of the source that mean nothing in a bundle, at most 1,000 of them.
	Ignored []string
	// LastGood reports whether this is the copy of a candidate that was active before.
	LastGood bool
	// Tested reports whether the tests of Own have passed before, in the same Watcher.Tester.
	Tested bool
}

// content is all that a candidate is made of, before it is parsed.
type content struct {
	tree      *Tree
	documents []File
	hash      string
	stale     error // why the source could not be read; tree is then the active one; nil: it was read
}

func newContent(tree *Tree, documents []File) *content {
	var all digest
	for _, f := range tree.Files {
		all.add("bundle", f.Path, f.Hash)
	}
	for _, f := range documents {
		all.add("document", f.Path, f.Hash)
	}
	return &content{tree: tree, documents: documents, hash: all.sum()}
}

// digest hashes a sequence of names and hashes. Different sequences give different input to the hash.
type digest struct{ lines []byte }

func (d *digest) add(parts ...string) {
	for _, part := range parts {
		d.lines = fmt.Appendf(d.lines, "%d:%s,", len(part), part)
	}
	d.lines = append(d.lines, '\n')
}

func (d *digest) sum() string {
	sum := sha256.Sum256(d.lines)
	return hex.EncodeToString(sum[:])
}

// size returns the bytes of all files; 0 for nil.
func (c *content) size() (n int) {
	if c == nil {
		return 0
	}
	for _, f := range slices.Concat(c.tree.Files, c.tree.Others, c.documents) {
		n += len(f.Data)
	}
	return n
}
