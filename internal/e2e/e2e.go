// Package e2e runs the program as users run it: the built binary, in a directory of its own, with a configuration file. The tests
// are in the packages below it, one for each subject.
//
// Where the tests run with the race detector, the binary is built with it as well. POSTERN_BINARY names another binary to test.
//
// Each Process has one goroutine, which waits for the process to end. A test ends the processes that it started.
package e2e

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// Main runs the tests of a package. It builds the program first, so that no test has to wait for that. Tests which call t.Parallel
// run four at a time, because they mostly wait for other processes.
func Main(m *testing.M) {
	flag.Parse()
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if !set["test.parallel"] {
		_ = flag.Set("test.parallel", "4")
	}
	if !testing.Short() && !set["test.list"] {
		if _, err := binary(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Binary returns the path of the program under test, built with the race detector if the test was.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	testenv.Must(t, err)
	return path
}

func binary() (string, error) {
	if raceDetector() {
		return built(withRaceDetector)
	}
	return built(plain)
}

// PlainBinary is Binary without the race detector, for tests that measure time and memory or look at system calls.
func PlainBinary(t testing.TB) string {
	t.Helper()
	path, err := built(plain)
	testenv.Must(t, err)
	return path
}

var (
	plain            = sync.OnceValues(func() (string, error) { return build("postern", "-trimpath", "-ldflags=-s -w") })
	withRaceDetector = sync.OnceValues(func() (string, error) { return build("postern-race", "-race") })
)

func built(build func() (string, error)) (string, error) {
	if path := os.Getenv("POSTERN_BINARY"); path != "" {
		return path, nil
	}
	return build()
}

// raceDetector reports whether this test was built with the race detector.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// build builds the program with the flags. The packages of tests share the file: the go command links it again only if
// something has changed, and a lock lets one package build at a time.
func build(name string, flags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	if err := dependOnSources(root); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "postern-e2e", strings.ReplaceAll(strings.Trim(root, "/"), "/", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "./cmd/postern")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// dependOnSources looks at every directory of the module. The go command notes what a test looks at, and does not take the test's
// result from its cache once a file there has changed. Without this it would not know that these tests depend on the program.
func dependOnSources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return fs.SkipDir
		}
		return err
	})
}

// Root returns the directory of the module, in which go.mod is.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return "", fmt.Errorf("no go.mod above the test's directory")
		}
		dir = above
	}
}

// Path returns the path of a file of the module, which is given relative to its root: docs/README.md.
func Path(t testing.TB, name string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, name)
}
