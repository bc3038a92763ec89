package bundles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path"
	"strings"
)

// Limits bound what a source may hold. The zero value of each means its default.
type Limits struct {
	Files int   // entries, directories and files that do not count included; 0: 50,000
	File  int64 // octets of one file; 0: 128 MiB
	Total int64 // octets of all files together, unpacked; 0: 512 MiB
	Depth int   // directories within directories, and levels of a data document; 0: 64
}

func (l Limits) orDefault() Limits {
	if l.Files <= 0 {
		l.Files = 50_000
	}
	if l.File <= 0 {
		l.File = 128 << 20
	}
	if l.Total <= 0 {
		l.Total = 512 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 64
	}
	return l
}

// Source is where a bundle is kept. [Dir], [FS] and [Tarball] are sources; one that downloads has the same shape.
type Source interface {
	// Read returns the content as it was at one moment. Errors are *LoadError.
	Read(ctx context.Context, limits Limits) (*Tree, error)
	// Paths are the files and directories of this machine whose change means that Read would yield something else.
	// A source with none is looked at again at intervals and on request only.
	Paths() []string
	// String names the source as the operator did.
	String() string
}

// Tree is the content of a source: every file that counts, sorted by path.
type Tree struct {
	Files []File
	// Ignored are the paths of files that do not count, at most 1,000 of them.
	Ignored []string
}

// File is one file of a tree.
type File struct {
	Path string // slash-separated, relative to the root
	Data []byte // never changed after it was read
	Hash string // SHA-256 of Data in hex
}

func newFile(name string, data []byte) File {
	return File{Path: name, Data: data, Hash: hash(data)}
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Open returns the source that name stands for: a directory, or a tarball (.tar.gz, .tgz).
// It does not touch the disk unless the name leaves the choice open.
func Open(name string) (Source, error) {
	switch {
	case name == "":
		return nil, &LoadError{Source: `""`, Message: "no bundle named", Hint: "name a directory or a .tar.gz"}
	case strings.Contains(name, "://"):
		return nil, &LoadError{Source: name, Message: "this kind of address is not supported",
			Hint: "name a directory or a .tar.gz on this machine"}
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return Tarball(name), nil
	}
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		return Tarball(name), nil
	}
	return Dir(name), nil
}

// kind of a file, by its name.
type kind int

const (
	kindIgnored kind = iota
	kindModule
	kindData
	kindManifest
	kindSignatures
	kindForeign // what belongs to other kinds of bundle and cannot be honoured
)

// kindOf tells what a path means in a bundle, by OPA's rules.
func kindOf(name string) kind {
	base := path.Base(name)
	if hidden(path.Dir(name)) {
		return kindIgnored
	}
	switch base {
	case ".manifest":
		return kindManifest
	case ".signatures.json":
		if name == base {
			return kindSignatures
		}
		return kindIgnored
	case "policy.wasm", "plan.json", "plan.pb", ".manifest.pb":
		return kindForeign
	case "patch.json":
		if name == base {
			return kindForeign
		}
		return kindIgnored
	}
	if strings.HasPrefix(base, ".") {
		return kindIgnored
	}
	if strings.HasSuffix(base, ".rego") {
		return kindModule
	}
	if base == "data.json" || base == "data.yaml" || base == "data.yml" {
		if strings.HasPrefix(name, "schemas/") {
			return kindIgnored
		}
		return kindData
	}
	return kindIgnored
}

// hidden reports whether an element of a slash-separated directory begins with a dot.
func hidden(dir string) bool {
	return dir != "." && (strings.HasPrefix(dir, ".") || strings.Contains(dir, "/."))
}

// collector gathers a tree within limits.
type collector struct {
	limits  Limits
	entries int
	total   int64
	seen    map[string]bool
	tree    Tree
}

func newCollector(limits Limits) *collector {
	return &collector{limits: limits.orDefault(), seen: map[string]bool{}}
}

// entry counts one more entry and refuses names that are too deep or came before.
func (c *collector) entry(name string) error {
	c.entries++
	if c.entries > c.limits.Files {
		return fault("", "more than %d files", c.limits.Files).hint("is this the right directory?")
	}
	if strings.Count(name, "/") >= c.limits.Depth || len(name) > 4096 {
		return fault(name, "more than %d directories deep", c.limits.Depth)
	}
	if c.seen[name] {
		return fault(name, "is there twice").hint("build the bundle again")
	}
	c.seen[name] = true
	return nil
}

// reserve books the octets of a file before they are read.
func (c *collector) reserve(name string, size int64) error {
	if size > c.limits.File {
		return fault(name, "%d octets; at most %d are read", size, c.limits.File)
	}
	if c.total += size; c.total > c.limits.Total {
		return fault(name, "the bundle is larger than %d octets", c.limits.Total)
	}
	return nil
}

func (c *collector) ignore(name string) {
	if len(c.tree.Ignored) < 1000 {
		c.tree.Ignored = append(c.tree.Ignored, name)
	}
}
