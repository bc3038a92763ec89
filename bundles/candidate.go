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
	// Bundle in OPA's own type: Manifest, Data and Modules, whose Path is relative to the bundle. Tests are among the modules.
	// In Data a large object is packed; engine.Compile and Policy.WithData take it as it is, and for anybody else there is
	// Unpacked.
	Bundle *bundle.Bundle
	// Own is the bundle without the extra data: what was signed, and what its tests were written for.
	Own *bundle.Bundle
	// Source as it was configured.
	Source string
	// Revision is the manifest's, or else the first 16 digits of ContentHash. With extra data documents the manifest's is
	// followed by "+data." and the first 8 digits of their hash, so that equal revisions mean equal decisions.
	Revision string
	// Files maps the path of every file that counts, and of every extra document, to its SHA-256 in hex.
	Files map[string]string
	// ContentHash covers all of Files; ModulesHash what is compiled; DataHash what is data. SHA-256 in hex. Two candidates
	// with the same ModulesHash differ in data (or metadata) only and need no second compilation. OwnHash covers modules and
	// data of Own: where it is the same, so are the outcomes of the tests.
	ContentHash, ModulesHash, DataHash, OwnHash string
	// Ignored are files of the source that mean nothing in a bundle, at most 1,000.
	Ignored []string
	// LastGood says that this is the copy of one that was active before.
	LastGood bool
}

// content is everything that a candidate is made of, unparsed.
type content struct {
	tree      *Tree
	documents []File
	hash      string
	stale     error // why the source could not be read, where the tree is the active one instead
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

// digest hashes a sequence of names and hashes without ambiguity.
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

// octets of all files; 0 of nil.
func (c *content) octets() (n int) {
	if c == nil {
		return 0
	}
	for _, f := range slices.Concat(c.tree.Files, c.tree.Others, c.documents) {
		n += len(f.Data)
	}
	return n
}
