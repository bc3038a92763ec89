package bundles

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/postern-mail/postern/internal/safefile"
)

// The files of the last good copy, which holds what was active last. The bundle has every file as it came, so that its
// signature still holds and stock OPA reads it. The extra data documents are in a file of their own.
const (
	lastGood          = "last-good.tar.gz"
	lastGoodDocuments = "last-good-documents.json"
	// lastGoodTests says whose tests passed, and in which program. It does not depend on the other files.
	lastGoodTests = "last-good-tests.json"
)

// maxPassed bounds the size of lastGoodTests, in bytes.
const maxPassed = 4096

// passedTests is what lastGoodTests holds: the tests of the bundle with this OwnHash passed in this Watcher.Tester. The
// operator's documents are not part of it, because the tests run without them.
type passedTests struct {
	Bundle  string `json:"bundle"`
	Tester  string `json:"tester"`
	Outcome string `json:"outcome"`
}

// passed returns the content of lastGoodTests for a candidate whose tests have passed.
func (w *Watcher) passed(c *Candidate) ([]byte, error) {
	text, err := json.Marshal(passedTests{c.OwnHash, w.Tester, "passed"})
	return append(text, '\n'), err
}

// tested reports whether the directory of the last good copy says that the tests of c have passed. What cannot be read, or
// says anything else, does not say so.
func (w *Watcher) tested(c *Candidate) bool {
	if w.Keep == "" || w.Tester == "" {
		return false
	}
	want, err := w.passed(c)
	if err != nil {
		return false
	}
	text, err := safefile.ReadFile(filepath.Join(w.Keep, lastGoodTests), maxPassed)
	return err == nil && bytes.Equal(text, want)
}

// saveTested remembers that the tests of c have passed. saveLastGood has made the directory.
func (w *Watcher) saveTested(c *Candidate) error {
	if w.Tester == "" || c.Tested {
		return nil
	}
	text, err := w.passed(c)
	if err == nil {
		err = safefile.WriteFile(filepath.Join(w.Keep, lastGoodTests), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember that its tests passed: %w", err)
	}
	return nil
}

// savedDocument is an extra data document in the last good copy.
type savedDocument struct {
	Path string `json:"path"`
	Data []byte `json:"data"`
}

// saveLastGood writes a last good copy into directory dir, which is made if it is missing.
func saveLastGood(dir string, raw *content) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = safefile.Write(filepath.Join(dir, lastGoodDocuments), 0o600, func(f *os.File) error { return writeDocuments(f, raw.documents) })
	}
	if err == nil {
		err = safefile.Write(filepath.Join(dir, lastGood), 0o600, func(f *os.File) error { return pack(f, raw.tree) })
	}
	if err != nil {
		return fmt.Errorf("write the last good copy: %w", err)
	}
	return nil
}

// writeDocuments writes files as a JSON list of savedDocument. It encodes them as it writes, because the senders of a large
// site are a hundred megabytes.
func writeDocuments(to io.Writer, files []File) error {
	w := bufio.NewWriter(to) // keeps the first error
	w.WriteByte('[')
	for i, f := range files {
		name, err := json.Marshal(f.Path)
		if err != nil {
			return err
		}
		if i > 0 {
			w.WriteByte(',')
		}
		fmt.Fprintf(w, "{\"path\":%s,\"data\":\"", name)
		text := base64.NewEncoder(base64.StdEncoding, w)
		if _, err := text.Write(f.Data); err != nil {
			return err
		}
		if err := text.Close(); err != nil {
			return err
		}
		w.WriteString("\"}")
	}
	w.WriteString("]\n")
	return w.Flush()
}

// pack writes a tree as a tarball that Unpack reads.
func pack(w io.Writer, tree *Tree) error {
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zip)
	for _, f := range slices.Concat(tree.Files, tree.Others) {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "/" + f.Path, Size: int64(len(f.Data)), Mode: 0o600}); err != nil {
			return err
		}
		if _, err := archive.Write(f.Data); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

// readLastGood reads the last good copy. The error is fs.ErrNotExist if there is none.
func (l *Loader) readLastGood(ctx context.Context, dir string) (*content, error) {
	limits := l.Limits
	limits.Others = l.Verify != nil
	tree, err := Tarball(filepath.Join(dir, lastGood)).Read(ctx, limits)
	if err != nil {
		return nil, err
	}
	documents, err := readSavedDocuments(filepath.Join(dir, lastGoodDocuments), l.Limits.orDefault())
	if err != nil {
		return nil, err
	}
	return newContent(tree, documents), nil
}

func readSavedDocuments(name string, limits Limits) ([]File, error) {
	text, err := readSmall(name, 2*limits.Total)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // an earlier version made the copy; its documents are in the bundle's data
	}
	if err != nil {
		return nil, err
	}
	var saved []savedDocument
	if err := json.Unmarshal(text, &saved); err != nil {
		return nil, &LoadError{Source: name, Message: err.Error(), Err: err}
	}
	var files []File
	for _, d := range saved {
		files = append(files, newFile(d.Path, d.Data))
	}
	return files, nil
}
