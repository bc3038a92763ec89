package decisionlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// file is the open log. Only the writer uses it.
type file struct {
	name    string
	f       *os.File
	regular bool      // no device, pipe or terminal: it can be rotated, and cut
	size    int64     // about; another process may have cut it
	begun   time.Time // time of the first line; valid if size is not 0
	torn    bool      // it may end in half a line
	dirty   bool      // written since the last sync
}

// openFile opens the file for appending. Only its owner may read it, because decisions hold addresses and subjects.
func openFile(name string) (*file, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	out := &file{name: name, f: f}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		out.regular, out.size = true, info.Size()
		out.torn = unfinished(name, out.size)
		if out.size > 0 {
			out.begun = begunAt(name, info.ModTime())
		}
	}
	return out, nil
}

// unfinished reports whether a file of that size does not end with a line end, because a process died while it wrote.
func unfinished(name string, size int64) bool {
	if size == 0 {
		return false
	}
	f, err := os.Open(name)
	if err != nil {
		return true
	}
	defer f.Close()
	last := make([]byte, 1)
	_, err = f.ReadAt(last, size-1)
	return err != nil && !errors.Is(err, io.EOF) || last[0] != '\n'
}

// write writes all lines in one write. After a failure it truncates the file, so that none of them is in it.
func (o *file) write(lines []byte) error {
	if o.torn {
		if _, err := o.f.Write([]byte{'\n'}); err != nil {
			return fmt.Errorf("decision log: %w", err)
		}
		o.torn = false
		o.size++
	}
	n, err := o.f.Write(lines)
	if err != nil {
		o.cut(n)
		return fmt.Errorf("decision log: %w", err)
	}
	o.size += int64(n)
	o.dirty = true
	return nil
}

// cut removes the last n octets, so that the file has neither half lines nor lines that were reported as lost. It asks for the
// size, because a rotation by copying and truncating changes it.
func (o *file) cut(n int) {
	if n == 0 {
		return
	}
	info, err := o.f.Stat()
	if err == nil && o.regular && info.Size() >= int64(n) {
		err = o.f.Truncate(info.Size() - int64(n))
	}
	o.torn = err != nil || !o.regular
}

func (o *file) sync() error {
	if !o.dirty || !o.regular {
		return nil
	}
	if err := o.f.Sync(); err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	o.dirty = false
	return nil
}

func (o *file) close() error {
	return errors.Join(o.sync(), o.f.Close())
}

// gone reports whether the name is no longer that of this file, because the file or its directory was renamed or removed.
func (o *file) gone() bool {
	if !o.regular {
		return false
	}
	mine, err := o.f.Stat()
	if err != nil {
		return true
	}
	o.size = mine.Size()
	there, err := os.Stat(o.name)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there)
}

// unlinked reports whether the file has no name any more. What is written to such a file is lost when it is closed.
func (o *file) unlinked() bool {
	info, err := o.f.Stat()
	return o.regular && (err != nil || links(info) == 0)
}

// rotate renames the file to a name with the time in it and opens a new one. Where that fails, the old file stays in use with
// its old name.
func (o *file) rotate(now time.Time) (*file, error) {
	old, err := rotatedName(o.name, now)
	if err != nil {
		return nil, fmt.Errorf("decision log: rotate: %w", err)
	}
	if err := os.Rename(o.name, old); err != nil {
		return nil, fmt.Errorf("decision log: rotate: %w", err)
	}
	next, err := openFile(o.name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rotate: %w", err), os.Rename(old, o.name))
	}
	return next, nil
}
