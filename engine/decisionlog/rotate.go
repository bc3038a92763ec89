package decisionlog

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// Rotate says when a file is full and what happens to it then. Full files are named FILE.20260102T150405.000000Z, so that sorting
// the names sorts the files by time.
type Rotate struct {
	Size     int64         // octets of a file; 0: any. A single line or write may be longer
	Age      time.Duration // of the first line of a file, when the next line is written; 0: any
	Keep     int           // full files that are kept; 0: all
	Compress bool          // with gzip, to the same name and .gz
}

// on reports whether a file is ever full.
func (r *Rotate) on() bool { return r.Size > 0 || r.Age > 0 }

// full reports whether a file must be rotated before lines of n octets are written to it.
func (r *Rotate) full(f *file, n int, now time.Time) bool {
	if !r.on() || !f.regular || f.size == 0 {
		return false
	}
	return r.Size > 0 && f.size+int64(n) > r.Size || r.Age > 0 && now.Sub(f.begun) >= r.Age
}

// begunAt returns the time of the first line of a log, which has been changed at the given time.
func begunAt(name string, changed time.Time) time.Time {
	f, err := os.Open(name)
	if err != nil {
		return changed
	}
	defer f.Close()
	r, err := NewReader(name, io.LimitReader(f, LongestLine))
	if err != nil {
		return changed
	}
	text, _, _, err := r.Next()
	if err != nil {
		return changed
	}
	var line struct {
		Timestamp time.Time `json:"timestamp"`
	}
	if json.Unmarshal(text, &line) != nil || line.Timestamp.IsZero() || line.Timestamp.After(changed) {
		return changed
	}
	return line.Timestamp
}

const (
	stampFormat = "20060102T150405.000000Z"
	compressed  = ".gz"
)

// rotatedName returns an unused name for a full file.
func rotatedName(name string, now time.Time) (string, error) {
	for range 1000 { // the clock may have been set back
		old := name + "." + now.UTC().Format(stampFormat)
		_, err := os.Lstat(old)
		_, gzErr := os.Lstat(old + compressed)
		if errors.Is(err, fs.ErrNotExist) && errors.Is(gzErr, fs.ErrNotExist) {
			return old, nil
		}
		now = now.Add(time.Microsecond)
	}
	return "", fmt.Errorf("%s.*: every name is taken", name)
}

// archive is the goroutine that compresses full files and removes the oldest. It works on the files that it finds, so that
// it continues what an earlier process did not finish.
type archive struct {
	name  string
	o     Rotate
	log   *slog.Logger
	work  chan struct{}
	ended chan struct{}
	ctx   context.Context
	stop  context.CancelFunc
}

func newArchive(name string, o Rotate, log *slog.Logger) *archive {
	a := &archive{name: name, o: o, log: log, work: make(chan struct{}, 1), ended: make(chan struct{})}
	a.ctx, a.stop = context.WithCancel(context.Background())
	a.wake()
	return a
}

// wake tells the archive that a file is full.
func (a *archive) wake() {
	select {
	case a.work <- struct{}{}:
	default: // it will see both
	}
}

// close ends run, even in the middle of a file, which the next start then compresses.
func (a *archive) close() {
	a.stop()
	<-a.ended
}

func (a *archive) run() {
	defer close(a.ended)
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-a.work:
		}
		if err := a.tidy(); err != nil && a.ctx.Err() == nil {
			a.log.Error("decision log: full files are left as they are", "file", a.name, "err", err)
		}
	}
}

// tidy removes the files beyond the limits, then compresses the rest.
func (a *archive) tidy() error {
	files, err := a.files()
	if err != nil {
		return err
	}
	var errs []error
	if n := len(files) - a.o.Keep; a.o.Keep > 0 && n > 0 {
		for _, f := range files[:n] {
			errs = append(errs, os.Remove(f))
		}
		files = files[n:]
	}
	if a.o.Compress {
		for _, f := range files {
			if !strings.HasSuffix(f, compressed) && a.ctx.Err() == nil {
				errs = append(errs, a.compress(f))
			}
		}
	}
	return errors.Join(errs...)
}

// files returns the full files, the oldest first. It leaves out files whose names rotate does not make.
func (a *archive) files() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(a.name))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(a.name)+".")
		if _, err := time.Parse(stampFormat, strings.TrimSuffix(stamp, compressed)); ok && err == nil && e.Type().IsRegular() {
			out = append(out, filepath.Join(filepath.Dir(a.name), e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// compress replaces a file with a compressed copy once the copy is complete.
func (a *archive) compress(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	err = safefile.Write(name+compressed, 0o600, func(f *os.File) error {
		zip := gzip.NewWriter(f)
		_, err := io.Copy(zip, untilDone{a.ctx, in})
		return errors.Join(err, zip.Close())
	})
	if err != nil {
		return err
	}
	return os.Remove(name)
}

// untilDone reads until its context ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
