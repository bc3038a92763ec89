package safefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Lock is a file that at most one process holds at a time. It contains the number of that process. The kernel releases it when the
// process ends, however it ends.
type Lock struct{ f *os.File }

// LockedError says that another process holds a lock.
type LockedError struct {
	Name string
	Pid  int // 0: not known
}

// Error names the file and the process.
func (e *LockedError) Error() string {
	if e.Pid == 0 {
		return e.Name + " is locked by another process"
	}
	return fmt.Sprintf("%s is locked by process %d", e.Name, e.Pid)
}

// AcquireLock takes the lock file name, which it makes with mode 0600 if it is missing: a user who can open the file could hold the lock.
// The error is a *LockedError if another process has it, ErrNoLocks if the file system has no locks, or a *fs.PathError.
func AcquireLock(name string) (*Lock, error) {
	// The file is not removed at the end, so there is no moment at which two processes lock different files of this name.
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, syscall.EWOULDBLOCK):
		held := &LockedError{Name: name, Pid: readPid(f)}
		f.Close()
		return nil, held
	case errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EOPNOTSUPP):
		f.Close()
		return nil, fmt.Errorf("%s: %w (%w)", name, ErrNoLocks, err)
	default:
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	// What an ended process has left is replaced. A number that cannot be written is missing in a message, and nowhere else.
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return &Lock{f}, nil
}

// ErrNoLocks is the error of AcquireLock on a file system that has no locks.
var ErrNoLocks = errors.New("the file system has no locks")

// readPid returns the number in a lock file; 0: there is none, because its process has only just locked it.
func readPid(f *os.File) int {
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

// Release empties the file and gives the lock up. A nil Lock has none.
func (l *Lock) Release() {
	if l != nil {
		_ = l.f.Truncate(0)
		l.f.Close()
	}
}
