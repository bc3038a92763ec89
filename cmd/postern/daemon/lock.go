package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/internal/safefile"
)

// The lock files. Each contains the number of the process that holds it.
const (
	stateLock    = "postern.pid" // in the state directory
	decisionLock = ".pid"        // after the name of the decision log
)

// locks keep a second server away from files that two processes cannot share: the state directory, and the decision log, which each of
// them would rotate. Maildirs, users and policies can be shared, and are not locked. Nor does any other command need a lock.
type locks struct{ held []*safefile.Lock }

// take takes the locks of a configuration. Its error names the process that has one of them.
func (l *locks) take(cfg *config.Config, log *slog.Logger) error {
	if err := l.add(filepath.Join(cfg.StateDir, stateLock), log); err != nil {
		return inUse(err, "the state directory "+cfg.StateDir, "stop it, or write another state_dir or --dir")
	}
	name := cfg.DecisionLog.File
	if name == "" {
		return nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil // a pipe or a terminal is never rotated
	}
	if err := l.add(name+decisionLock, log); err != nil {
		return inUse(err, "the decision log "+name, "stop it, or write another decision_log.file")
	}
	return nil
}

// add takes one lock, and makes its directory if that is missing. Where the directory is not writable there is nothing to share, and some network file systems have no locks: then
// there is a warning, because servers run in such places.
func (l *locks) add(name string, log *slog.Logger) error {
	_ = os.MkdirAll(filepath.Dir(name), 0o700) // the lock's error says what is wrong
	lock, err := safefile.AcquireLock(name)
	switch {
	case err == nil:
		l.held = append(l.held, lock)
		return nil
	case unwritable(err), errors.Is(err, safefile.ErrNoLocks):
		log.Warn("nothing keeps a second server away from these files", "lock", name, "error", err)
		return nil
	}
	return err
}

// unwritable reports whether no file can be made: by permission, on a read-only or a full file system, or without a directory.
func unwritable(err error) bool {
	for _, known := range []error{fs.ErrPermission, fs.ErrNotExist, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// inUse says in the error of a lock what is locked and how to go on.
func inUse(err error, what, mend string) error {
	var held *safefile.LockedError
	switch {
	case !errors.As(err, &held):
		return err
	case held.Pid == 0:
		return fmt.Errorf("another postern serve uses %s; %s (%w)", what, mend, err)
	}
	return fmt.Errorf("another postern serve, process %d, uses %s; %s", held.Pid, what, mend)
}

func (l *locks) release() {
	for _, lock := range l.held {
		lock.Release()
	}
}
