//go:build unix

package testenv

import (
	"os"
	"path/filepath"
	"syscall"
)

// LockDefaultPorts waits until no other test uses the ports of `postern serve` without a configuration, 2587 and 2465, and keeps them
// for the caller until release is called. Packages of tests run side by side, and each of these ports exists once.
func LockDefaultPorts() (release func(), err error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "postern-test-ports.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
