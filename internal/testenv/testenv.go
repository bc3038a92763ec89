// Package testenv has what tests of several packages need around them: short directories, free ports, files, and the programs of
// other projects that a test runs.
//
// A test whose program is missing fails. Nothing is skipped, except under -short, and only by NotShort.
//
// Background starts a process in a process group of its own and ends it with the test; it has no goroutine that lives longer.
package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// NotShort leaves the test out under -short, because it needs what: a real server, or several seconds. Without -short it does
// nothing. Benchmarks are never left out.
func NotShort(t testing.TB, what string) {
	t.Helper()
	if _, benchmark := t.(*testing.B); testing.Short() && !benchmark {
		t.Skipf("left out by -short: needs %s", what)
	}
}

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ShortDir makes a directory that exists until the test ends. Servers that drop privileges can reach it, and its path is short
// enough for unix sockets; neither is true of t.TempDir.
func ShortDir(t testing.TB) string {
	t.Helper()
	return ShortDirIn(t, "")
}

// ShortDirIn is ShortDir below parent. An empty parent is the system's directory for temporary files.
func ShortDirIn(t testing.TB, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "postern-")
	Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	Must(t, os.Chmod(dir, 0o755))
	return dir
}

// Write writes a file that only its owner can read, and makes the directories that path names.
func Write(t testing.TB, path, text string) {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, []byte(text), 0o600))
}

// Read returns the text of a file.
func Read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	Must(t, err)
	return string(b)
}

// FreeAddr returns a TCP address on loopback, host:port, at which nothing listened a moment ago. The port is below those that the
// system gives to outgoing connections and to listeners on port 0, so that another test does not get it meanwhile.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port was found between 10000 and 30000")
	return ""
}
