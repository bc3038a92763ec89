package bundles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// Dir returns a bundle in a directory. In a Kubernetes volume, it reads the revision that the link ..data leads to. Symbolic
// links may lead to files within the directory, and must not lead out of it.
func Dir(name string) Source { return dir(name) }

type dir string

func (d dir) String() string { return string(d) }

func (d dir) Paths() []string { return []string{string(d)} }

// Read reads every file that counts. If anything changed meanwhile, it starts again, a few times.
func (d dir) Read(ctx context.Context, limits Limits) (*Tree, error) {
	var err error
	for range readAttempts {
		var tree *Tree
		if tree, err = d.readOnce(ctx, limits); err == nil {
			return tree, nil
		}
		// A file that was removed between listing and reading is a change, too.
		if !errors.Is(err, errChanged) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if _, gone := os.Stat(string(d)); gone != nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, from(d.String(), ctx.Err())
		case <-time.After(readPause):
		}
	}
	return nil, from(d.String(), err)
}

func (d dir) readOnce(ctx context.Context, limits Limits) (*Tree, error) {
	root, revision, err := d.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	disk := &diskFS{root: root, linked: map[string]bool{}}
	before, tree, err := readFS(ctx, disk, limits)
	if err != nil {
		return nil, err
	}
	again, err := newCollector(limits).list(ctx, disk)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(before, again) {
		return nil, fault("", "%v", errChanged).because(errChanged)
	}
	if now, _ := os.Readlink(filepath.Join(string(d), "..data")); now != revision {
		return nil, fault("", "%v", errChanged).because(errChanged)
	}
	return tree, nil
}

// open opens the directory, or in a Kubernetes volume the directory of its current revision. A volume is updated by renaming
// the link ..data. Resolving it once means that all files come from one revision (opa#2588).
func (d dir) open() (root *os.Root, revision string, err error) {
	root, err = os.OpenRoot(string(d))
	if err != nil {
		return nil, "", openFault(err)
	}
	revision, err = root.Readlink("..data")
	if err != nil {
		return root, "", nil
	}
	inner, err := root.OpenRoot(revision) // cannot lead out of the directory
	if closeErr := root.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, "", fault("..data", "cannot open what it links to: %v", err).because(err)
	}
	return inner, revision, nil
}

// diskFS is a directory on disk. An os.Root resolves a path component by component, which costs several system calls a file.
// Only symbolic links need that, because they must not lead out. The reader compares the file that it opened with the one
// that was listed, so a file that was swapped in between is noticed.
type diskFS struct {
	root   *os.Root
	linked map[string]bool // names that are symbolic links; written by Stat only
}

func (d *diskFS) path(name string) string {
	return filepath.Join(d.root.Name(), filepath.FromSlash(name))
}

func (d *diskFS) Open(name string) (fs.File, error) {
	if d.linked[name] {
		return d.root.Open(name)
	}
	return os.Open(d.path(name))
}

func (d *diskFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(d.path(name)) }

func (d *diskFS) Stat(name string) (fs.FileInfo, error) {
	info, err := os.Lstat(d.path(name))
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return info, err
	}
	d.linked[name] = true
	return d.root.Stat(name)
}

// FS returns a bundle in a file system that does not change, such as the embedded default bundle. name is its String.
func FS(fsys fs.FS, name string) Source { return &fsSource{fsys: fsys, name: name} }

type fsSource struct {
	fsys fs.FS
	name string
}

func (s *fsSource) String() string { return s.name }

func (s *fsSource) Paths() []string { return nil }

func (s *fsSource) Read(ctx context.Context, limits Limits) (*Tree, error) {
	_, tree, err := readFS(ctx, s.fsys, limits)
	return tree, from(s.name, err)
}

// listed describes a file when it was listed. If a second listing differs, the file has changed.
type listed struct {
	path     string
	size     int64
	modified int64 // ns
	identity safefile.Identity
}

// readFS lists all files that count, and then reads them.
func readFS(ctx context.Context, fsys fs.FS, limits Limits) ([]listed, *Tree, error) {
	c := newCollector(limits)
	files, err := c.list(ctx, fsys)
	if err != nil {
		return nil, nil, err
	}
	read := make([]File, len(files))
	errs := make([]error, len(files))
	parallel(len(files), func(i int) {
		if errs[i] = ctx.Err(); errs[i] != nil {
			return
		}
		var data []byte
		if data, errs[i] = readListed(fsys, files[i]); errs[i] == nil {
			read[i] = newFile(files[i].path, data)
		}
	})
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	for _, f := range read {
		c.add(f)
	}
	return files, &c.tree, nil
}

// readListed reads a file that was listed. If it is another file by now, the error is errChanged.
func readListed(fsys fs.FS, f listed) ([]byte, error) {
	file, err := fsys.Open(f.path)
	if err != nil {
		missing := openFault(err)
		missing.File = f.path
		return nil, missing
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fault(f.path, "%v", err).because(err)
	}
	if safefile.Identify(info) != f.identity || !info.Mode().IsRegular() {
		return nil, fault(f.path, "%v", errChanged).because(errChanged)
	}
	data := make([]byte, f.size+1)
	n, err := io.ReadFull(file, data)
	if err == nil || int64(n) != f.size {
		return nil, fault(f.path, "%v", errChanged).because(errChanged)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fault(f.path, "%v", err).because(err)
	}
	return data[:f.size:f.size], nil
}

// list returns the files that count, sorted by path.
func (c *collector) list(ctx context.Context, fsys fs.FS) ([]listed, error) {
	var files []listed
	pending := []string{"."}
	for len(pending) > 0 {
		current := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		entries, err := fs.ReadDir(fsys, current)
		if err != nil {
			f := openFault(err)
			f.File = current
			return nil, f
		}
		for _, entry := range entries {
			name := path.Join(current, entry.Name())
			if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			if err := c.entry(name); err != nil {
				return nil, err
			}
			if entry.IsDir() {
				pending = append(pending, name)
				continue
			}
			if !c.reads(name) && entry.Type()&fs.ModeSymlink == 0 {
				c.ignore(name)
				continue
			}
			f, counts, err := c.file(fsys, name)
			if err != nil {
				return nil, err
			}
			if counts {
				files = append(files, f)
			}
		}
	}
	slices.SortFunc(files, func(a, b listed) int { return cmp.Compare(a.path, b.path) })
	return files, nil
}

// file examines one entry that is not a directory.
func (c *collector) file(fsys fs.FS, name string) (listed, bool, error) {
	counts := c.reads(name)
	info, err := fs.Stat(fsys, name)
	switch {
	case err != nil && !counts:
		c.ignore(name) // some editors make a lock file that is a dangling link
		return listed{}, false, nil
	case errors.Is(err, fs.ErrNotExist):
		f := openFault(err)
		f.File = name
		return listed{}, false, f
	case err != nil:
		return listed{}, false, fault(name, "cannot be read: %v", err).because(err).
			hint("symbolic links must lead to files within the bundle")
	case info.IsDir() && !strings.HasPrefix(path.Base(name), "."):
		return listed{}, false, fault(name, "is a symbolic link to a directory").
			hint("use a directory, or name the linked directory as the bundle")
	case !counts:
		c.ignore(name)
		return listed{}, false, nil
	case !info.Mode().IsRegular():
		return listed{}, false, fault(name, "is not a regular file (%s)", fmt.Sprint(info.Mode().Type()))
	}
	if err := c.reserve(name, info.Size()); err != nil {
		return listed{}, false, err
	}
	return listed{path: name, size: info.Size(), modified: info.ModTime().UnixNano(), identity: safefile.Identify(info)}, true, nil
}
