package relay

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// tracedFS notes what is done to the disk, and fails in the operation that begins with fail.
type tracedFS struct {
	osFS
	mu   sync.Mutex
	ops  []string
	fail string
	err  error
}

func (f *tracedFS) op(what, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sub := filepath.Base(filepath.Dir(path))
	if what == "syncdir" || what == "mkdir" {
		sub = filepath.Base(path)
	}
	op := what + " " + sub
	f.ops = append(f.ops, op)
	if f.fail != "" && strings.HasPrefix(op, f.fail) {
		return f.err
	}
	return nil
}

func (f *tracedFS) MkdirAll(path string) error {
	return errors.Join(f.op("mkdir", path), f.osFS.MkdirAll(path))
}

func (f *tracedFS) Create(path string) (diskFile, error) {
	if err := f.op("create", path); err != nil {
		return nil, err
	}
	file, err := f.osFS.Create(path)
	return &tracedFile{file, f, path}, err
}

func (f *tracedFS) Rename(from, to string) error {
	if err := f.op("rename", to); err != nil {
		return err
	}
	return f.osFS.Rename(from, to)
}

func (f *tracedFS) Remove(path string) error {
	if err := f.op("remove", path); err != nil {
		return err
	}
	return f.osFS.Remove(path)
}

func (f *tracedFS) SyncDir(path string) error {
	if err := f.op("syncdir", path); err != nil {
		return err
	}
	return f.osFS.SyncDir(path)
}

type tracedFile struct {
	diskFile
	fs   *tracedFS
	path string
}

func (f *tracedFile) Write(p []byte) (int, error) {
	if err := f.fs.op("write", f.path); err != nil {
		n, _ := f.diskFile.Write(p[:len(p)/2])
		return n, err
	}
	return f.diskFile.Write(p)
}

func (f *tracedFile) Sync() error {
	return errors.Join(f.fs.op("sync", f.path), f.diskFile.Sync())
}

func (f *tracedFile) Close() error {
	return errors.Join(f.diskFile.Close(), f.fs.op("close", f.path))
}

// stuckFS can neither sync new nor remove anything.
type stuckFS struct{ osFS }

func (f *stuckFS) SyncDir(path string) error {
	if filepath.Base(path) == "new" {
		return syscall.EIO
	}
	return f.osFS.SyncDir(path)
}
func (*stuckFS) Remove(string) error { return syscall.EROFS }
