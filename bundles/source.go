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

// Limits bound what a source may hold. A zero field means its default.
type Limits struct {
	Files int   // entries, including directories and files that do not count; 0: 50,000
	File  int64 // bytes of one file; 0: 256 MiB
	Total int64 // bytes of all files together, unpacked; 0: 512 MiB
	Depth int   // nested directories, and levels of a data document; 0: 64
	// Others also asks for the files that do not count. A signature covers every file that is not hidden.
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

// Source is a place that holds a bundle: [Dir], [FS], [Tarball], or what [Open] returns for an address.
type Source interface {
	// Read returns the content as it was at one moment. Errors are *LoadError.
	Read(ctx context.Context, limits Limits) (*Tree, error)
	// Paths returns the local files and directories whose change can change what Read returns. A source without any is
	// read again at intervals and on request only.
	Paths() []string
	// String returns the source as the operator wrote it.
	String() string
}

// Versioned is a Source that can tell whether its content is still the same without reading all of it.
type Versioned interface {
	Source
	// ReadSince returns ErrUnchanged if the content is still the one whose Tree.Version is version. Otherwise, and if version
	// is "", it is Read.
	ReadSince(ctx context.Context, limits Limits, version string) (*Tree, error)
}

// ErrUnchanged is the error of [Versioned] for a source whose content has not changed.
var ErrUnchanged = errors.New("nothing has changed")

// Tree is the content of a source.
type Tree struct {
	Files []File // those that count, sorted by path
	// Others are the files that do not count and are not hidden, if Limits.Others asks for them.
	Others []File
	// Version names this content of a Versioned source by an entity tag or a digest; "": the source gave none.
	Version string
	// Ignored are the paths of files that do not count, at most 1,000 of them.
	Ignored []string
}

// File is one file of a tree.
type File struct {
	Path string // slash-separated, relative to the root
	Data []byte // immutable
	Hash string // SHA-256 of Data in hex
}

func newFile(name string, data []byte) File {
	return File{Path: name, Data: data, Hash: hash(data)}
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// kind is what a file means in a bundle.
type kind int

const (
	kindIgnored kind = iota
	kindModule
	kindData
	kindManifest
	kindSignatures
	kindForeign // belongs to a kind of bundle that is not supported
)

// kindOf returns the kind of a file by its path, with OPA's rules.
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

// hidden reports whether an element of a slash-separated path begins with a dot.
func hidden(dir string) bool {
	return dir != "." && (strings.HasPrefix(dir, ".") || strings.Contains(dir, "/."))
}

// collector builds a Tree within limits.
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

// entry counts one more entry. A name that is too deep, or that came before, is an error.
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

// reserve counts the bytes of a file before they are read.
func (c *collector) reserve(name string, size int64) error {
	if size > c.limits.File {
		return fault(name, "%d bytes; at most %d are read", size, c.limits.File)
	}
	if c.total += size; c.total > c.limits.Total {
		return fault(name, "the bundle is larger than %d bytes", c.limits.Total)
	}
	return nil
}

func (c *collector) ignore(name string) {
	if len(c.tree.Ignored) < 1000 {
		c.tree.Ignored = append(c.tree.Ignored, name)
	}
}

// reads reports whether the content of a file is needed.
func (c *collector) reads(name string) bool {
	return kindOf(name) != kindIgnored || c.limits.Others && !skipped(name)
}

// add puts a file into Files or Others.
func (c *collector) add(f File) {
	if kindOf(f.Path) == kindIgnored {
		c.ignore(f.Path)
		c.tree.Others = append(c.tree.Others, f)
		return
	}
	c.tree.Files = append(c.tree.Files, f)
}

// skipped reports whether an element of a path begins with a dot. .manifest and .signatures.json at the root are not skipped.
func skipped(name string) bool {
	return name != ".manifest" && name != ".signatures.json" && hidden(name)
}

// parallel calls do for 0 to n-1 on as many goroutines as there are processors, and waits for all of them.
func parallel(n int, do func(int)) {
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
