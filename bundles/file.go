package bundles

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// Attempts to read a directory that is being written to, and the pause between them.
const (
	readAttempts = 5
	readPause    = 40 * time.Millisecond
)

var errChanged = errors.New("changed while it was read")

func openFault(err error) *LoadError {
	f := fault("", "%v", err).because(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Message = "no such file or directory"
	case errors.Is(err, fs.ErrPermission):
		f.Message = "permission denied"
		f.Hint = "let the account that runs this program read it"
	}
	return f
}

func readSmall(name string, limit int64) ([]byte, error) {
	text, err := safefile.ReadFile(name, limit)
	if err != nil {
		return nil, fileFault(name, err)
	}
	return text, nil
}

// fileFault returns a *LoadError for a file that cannot be read. Its Source names the file, so its Message does not.
func fileFault(name string, err error) *LoadError {
	f := openFault(err)
	f.Source = name
	var path *fs.PathError
	if errors.As(err, &path) && f.Message == err.Error() {
		f.Message = path.Err.Error()
	}
	return f
}

// readWhole reads a regular file of at most limit bytes, and again when it changes meanwhile.
func readWhole(ctx context.Context, name string, limit int64) ([]byte, error) {
	for range readAttempts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := readStable(name, limit)
		if !errors.Is(err, errChanged) {
			return data, err
		}
	}
	return nil, fault("", "%v", errChanged).because(errChanged)
}

func readStable(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, openFault(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fault("", "is not a regular file")
	}
	if info.Size() > limit {
		return nil, fault("", "%d bytes; at most %d are read", info.Size(), limit)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, openFault(err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, info.Size()+1))
	if err != nil {
		return nil, fault("", "%v", err).because(err)
	}
	after, err := file.Stat()
	if err != nil {
		return nil, fault("", "%v", err).because(err)
	}
	if int64(len(data)) != info.Size() || !after.ModTime().Equal(info.ModTime()) || safefile.Identify(after) != safefile.Identify(info) {
		return nil, errChanged
	}
	return data, nil
}
