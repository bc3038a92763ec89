package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// WriteFile is [Write] with the content in memory.
func WriteFile(name string, data []byte, perm fs.FileMode) error {
	return Write(name, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// Write replaces the content of a file, or makes the file with mode perm (before umask). The content goes to a new file in the same
// directory, which fill writes, and which takes the place of the old one once it is on disk.
//
//   - Where name is a symbolic link, the file that it leads to is replaced, not the link.
//   - A file that is replaced keeps its mode and owner. Other names of it (hard links), its access control list and its
//     extended attributes are not kept.
//   - What is not a regular file (a directory, a device, a pipe) is an error.
//   - If fill fails, nothing changes. Write returns its error unchanged.
//
// fill may open f.Name() to check what it has written. It must not close f.
func Write(name string, perm fs.FileMode, fill func(f *os.File) error) error {
	t, err := resolve(name)
	if err != nil {
		return err
	}
	if !t.replaceable() {
		return fmt.Errorf("%s is not a regular file, so it is not replaced; give the path of a file", name)
	}
	return t.replace(perm, fill)
}

// Output is [Write] for a file that a user names as the output of a command. It writes straight to what is not a regular
// file, such as a pipe or /dev/null. Where name leads to an open file of this process, such as /dev/stdout or /dev/fd/3,
// it writes there.
func Output(name string, perm fs.FileMode, fill func(f *os.File) error) error {
	t, err := resolve(name)
	if err != nil {
		return err
	}
	if t.replaceable() {
		return t.replace(perm, fill)
	}
	f, err := t.open()
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}

// Create makes a file that does not exist yet, as a whole or not at all. Where the name is taken, the error is
// fs.ErrExist, and nothing changes: of several processes that do this at the same time, one succeeds.
func Create(name string, data []byte, perm fs.FileMode) error {
	f, err := renameio.NewPendingFile(name, renameio.WithTempDir(filepath.Dir(name)), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// target is where a name leads.
type target struct {
	path string
	info fs.FileInfo // nil: there is nothing yet
	fd   int         // an open file of this process; -1: none
}

// maxLinks bounds the symbolic links that are followed, as the kernel does.
const maxLinks = 40

// resolve follows symbolic links, also to a file that does not exist yet.
func resolve(name string) (target, error) {
	path := name
	for range maxLinks {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return target{}, err
		}
		path = filepath.Join(dir, filepath.Base(path))
		// The links in this directory stand for open files. Their text is not always a path.
		if dir == fmt.Sprintf("/proc/%d/fd", os.Getpid()) || dir == "/dev/fd" {
			fd, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				return target{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			return target{path: name, fd: fd}, nil
		}
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return target{path: path, fd: -1}, nil
		}
		if err != nil {
			return target{}, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return target{path: path, info: info, fd: -1}, nil
		}
		link, err := os.Readlink(path)
		if err != nil {
			return target{}, err
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(dir, link)
		}
		path = link
	}
	return target{}, fmt.Errorf("%s: more than %d symbolic links", name, maxLinks)
}

// replaceable reports whether t is a regular file, or nothing yet.
func (t target) replaceable() bool {
	return t.fd < 0 && (t.info == nil || t.info.Mode().IsRegular())
}

// open opens for writing what cannot be replaced. An open file of this process keeps its position.
func (t target) open() (*os.File, error) {
	if t.fd < 0 {
		return os.OpenFile(t.path, os.O_WRONLY, 0)
	}
	fd, err := syscall.Dup(t.fd)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: t.path, Err: err}
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), t.path), nil
}

func (t target) replace(perm fs.FileMode, fill func(f *os.File) error) error {
	removeLeftovers(t.path)
	dir, mode := filepath.Dir(t.path), perm
	if t.info != nil {
		mode = 0o600 // nobody may read the content before owner and mode are right
	}
	f, err := renameio.NewPendingFile(t.path, renameio.WithTempDir(dir), renameio.WithPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := fill(f.File); err != nil {
		return err
	}
	if err := t.keepModeAndOwner(f.File); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil { // syncs the file first
		return err
	}
	return syncDir(dir)
}

// keepModeAndOwner gives f the owner, group and mode of the file that it replaces.
func (t target) keepModeAndOwner(f *os.File) error {
	if t.info == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	old, ok := t.info.Sys().(*syscall.Stat_t)
	fresh, freshOK := info.Sys().(*syscall.Stat_t)
	if ok && freshOK && (old.Uid != fresh.Uid || old.Gid != fresh.Gid) {
		if err := f.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return fmt.Errorf("%s belongs to user %d and group %d, and this process may not keep that; write it as that user, or as root", t.path, old.Uid, old.Gid)
		}
	}
	return f.Chmod(t.info.Mode().Perm())
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// leftoverAge is how old an unfinished copy must be before it counts as left over from a process that was killed.
const leftoverAge = time.Hour

// removeLeftovers removes unfinished copies of path: a dot, its name and the 15 to 19 digits that renameio appends. Where
// that fails, they only take up space.
func removeLeftovers(path string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "."+filepath.Base(path))
		if !ok || len(digits) < 15 || len(digits) > 19 || strings.Trim(digits, "0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftoverAge {
			os.Remove(filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
}
