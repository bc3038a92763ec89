package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// maxSecret bounds the file of a secret, in bytes.
const maxSecret = 64 << 10

// ReadSecret returns the first line of a file, without its line end (LF or CRLF). Spaces belong to the secret. The error is
// a *fs.PathError, and never quotes from the file. These are errors: a first line that is empty, all white space, or holds a NUL
// character or a CR; more than 64 KiB; what is not a regular file.
func ReadSecret(name string) (string, error) {
	data, err := ReadFile(name, maxSecret)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimSuffix(line, "\r")
	switch {
	case strings.TrimSpace(line) == "":
		return "", &fs.PathError{Op: "read", Path: name, Err: errEmpty}
	case strings.ContainsAny(line, "\x00\r"):
		return "", &fs.PathError{Op: "read", Path: name, Err: errControl}
	}
	return line, nil
}

// ReadFile reads a regular file of at most max bytes. The error is a *fs.PathError.
func ReadFile(name string, max int64) ([]byte, error) {
	// Opening a pipe that has no writer must not block.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errNotRegular}
	}
	// The file may grow while it is read. One byte too many is enough to notice that.
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("longer than %d bytes; is it the right file?", max)}
	}
	return data, nil
}

var (
	errNotRegular = errors.New("not a regular file; give the path of a file")
	errEmpty      = errors.New("the first line is empty; write the secret there")
	errControl    = errors.New("the first line holds a NUL or CR character; write the secret as plain text")
)
