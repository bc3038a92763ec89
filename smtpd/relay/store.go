package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// fileSystem is what a Maildir needs of the disk; tests put a failing one in its place.
type fileSystem interface {
	MkdirAll(path string) error           // mode 0700
	Create(path string) (diskFile, error) // a new file, mode 0600; an error if it exists
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(path string) error // fsync of a directory
}

type diskFile interface {
	io.WriteCloser
	Sync() error
}

type osFS struct{}

func (osFS) MkdirAll(path string) error { return os.MkdirAll(path, 0o700) }

func (osFS) Create(path string) (diskFile, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(path string) error     { return os.Remove(path) }

func (osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// leftError: the message has its final name, and could neither be made durable nor be taken back.
type leftError struct {
	name string
	err  error
}

func (e *leftError) Error() string { return e.name + ": " + e.err.Error() }
func (e *leftError) Unwrap() error { return e.err }

// store writes one message so that a crash at any moment leaves it either whole and found or not at all: file in tmp,
// fsync, rename into new, fsync of new.
func (m *Maildir) store(ctx context.Context, envelope []byte, size int64, body io.Reader) (string, error) {
	m.tidy()
	name := m.name()
	tmp, final := m.path("tmp", name), m.path("new", name)
	f, err := m.fs.Create(tmp)
	if errors.Is(err, fs.ErrNotExist) { // somebody took the directories away
		if err = m.mkdirs(); err == nil {
			f, err = m.fs.Create(tmp)
		}
	}
	if err != nil {
		return "", err
	}
	err = m.fill(f, envelope, size, body)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = m.fs.Rename(tmp, final)
		if errors.Is(err, fs.ErrNotExist) { // new may be away, and tmp not
			if err = m.mkdirs(); err == nil {
				err = m.fs.Rename(tmp, final)
			}
		}
	}
	if err != nil {
		if rm := m.fs.Remove(tmp); rm != nil {
			m.o.Log.Warn("a file is left that can be removed", "file", tmp, "error", rm)
		}
		return "", err
	}
	if err := m.new.sync(); err != nil {
		if rm := m.fs.Remove(final); rm != nil {
			return "", &leftError{final, errors.Join(err, rm)}
		}
		return "", err
	}
	return name, nil
}

func (m *Maildir) fill(f io.Writer, envelope []byte, size int64, body io.Reader) error {
	block := m.blocks.Get().(*[]byte)
	defer m.blocks.Put(block)
	var failed error
	w := blockWriter{buf: append((*block)[:0], envelope...), flush: func(b []byte) error {
		_, failed = f.Write(b)
		return failed
	}}
	_, err := io.Copy(&w, body)
	switch {
	case failed != nil || errors.Is(err, errLineEnd):
		return err
	case err != nil:
		return &sourceError{err}
	case size >= 0 && w.n != size:
		return &sourceError{fmt.Errorf("it has %d octets and should have %d", w.n, size)}
	}
	last, err := w.end()
	if err != nil {
		return err
	}
	_, err = f.Write(last)
	return err
}

// dirSync shares the fsync of a directory: whoever comes while one is running waits for the next, which serves all
// that have come until then.
type dirSync struct {
	fs  fileSystem
	dir string

	mu      sync.Mutex
	waiting *syncRound // not yet begun

	turn sync.Mutex // held while one runs
}

type syncRound struct {
	done bool // under turn
	err  error
}

func (d *dirSync) sync() error {
	d.mu.Lock()
	if d.waiting == nil {
		d.waiting = &syncRound{}
	}
	r := d.waiting
	d.mu.Unlock()

	d.turn.Lock()
	defer d.turn.Unlock()
	if !r.done {
		d.mu.Lock()
		d.waiting = nil // who comes from here on may have renamed too late for this round
		d.mu.Unlock()
		r.err, r.done = d.fs.SyncDir(d.dir), true
	}
	return r.err
}
