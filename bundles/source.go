package bundles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// Limits bound what a source may hold. The zero value of each means its default.
type Limits struct {
	Files int   // entries, directories and files that do not count included; 0: 50,000
	File  int64 // octets of one file; 0: 256 MiB
	Total int64 // octets of all files together, unpacked; 0: 512 MiB
	Depth int   // directories within directories, and levels of a data document; 0: 64
	// Others asks for the files that do not count too: a signature covers all that is not hidden.
	Others bool
}

func (l Limits) orDefault() Limits {
	if l.Files <= 0 {
		l.Files = 50_000
	}
	if l.File <= 0 {
		l.File = 256 << 20
	}
	if l.Total <= 0 {
		l.Total = 512 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 64
	}
	return l
}

// Source is where a bundle is kept: [Dir], [FS], [Tarball], or what [Remote] opens.
type Source interface {
	// Read returns the content as it was at one moment. Errors are *LoadError.
	Read(ctx context.Context, limits Limits) (*Tree, error)
	// Paths are the files and directories of this machine whose change means that Read would yield something else.
	// A source with none is looked at again at intervals and on request only.
	Paths() []string
	// String names the source as the operator did.
	String() string
}

// Versioned is a Source that can tell, without yielding it, that its content is still the same.
type Versioned interface {
	Source
	// ReadSince is Read, or ErrUnchanged where the content is still that of Tree.Version version. With "" it always reads.
	ReadSince(ctx context.Context, limits Limits, version string) (*Tree, error)
}

// ErrUnchanged says that a source has nothing new.
var ErrUnchanged = errors.New("nothing has changed")

// Tree is the content of a source: every file that counts, sorted by path.
type Tree struct {
	Files []File
	// Others are the files that do not count, where they were asked for: none of them is hidden.
	Others []File
	// Version is what a Versioned source calls this content: an entity tag or a digest; "": it has no name for it.
	Version string
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

// reads reports whether the content of a file is wanted.
func (c *collector) reads(name string) bool {
	return kindOf(name) != kindIgnored || c.limits.Others && !passedOver(name)
}

// add puts a file where it belongs.
func (c *collector) add(f File) {
	if kindOf(f.Path) == kindIgnored {
		c.ignore(f.Path)
		c.tree.Others = append(c.tree.Others, f)
		return
	}
	c.tree.Files = append(c.tree.Files, f)
}

// passedOver reports whether an element of a path begins with a dot, .manifest and .signatures.json at the root apart.
func passedOver(name string) bool {
	return name != ".manifest" && name != ".signatures.json" && hidden(name)
}

// spread calls do for 0 to n-1 on as many goroutines as there are processors, and waits for all of them. A process that has little to
// do may have left itself one processor (cmd/postern) until this gives it more.
func spread(n int, do func(int)) {
	workers := min(max(runtime.GOMAXPROCS(0), min(runtime.NumCPU(), 4)), n)
	if workers <= 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				do(i)
			}
		})
	}
	all.Wait()
}
