package safefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case testing.Short():
		t.Skip("needs root; left out with -short")
	default:
		t.Fatal("needs root: only root may make devices, give files away and become another account")
	}
}

// holds checks a file's content, mode and that nothing else is in its directory.
func holds(t *testing.T, name, text string, mode fs.FileMode, names ...string) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	info, err := os.Stat(name)
	must(t, err)
	if string(b) != text || info.Mode().Perm() != mode {
		t.Errorf("%s holds %q with mode %v, want %q with mode %v", name, b, info.Mode(), text, mode)
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	must(t, err)
	var there []string
	for _, e := range entries {
		there = append(there, e.Name())
	}
	if strings.Join(there, " ") != strings.Join(names, " ") {
		t.Errorf("the directory holds %v, want %v", there, names)
	}
}

func TestWrite(t *testing.T) {
	cases := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		path    string // in dir
		real    string // the file that is written; "": path
		mode    fs.FileMode
		files   []string
	}{
		{"new", func(*testing.T, string) {}, "f", "", 0o640, []string{"f"}},
		{"replaced, mode kept", func(t *testing.T, dir string) {
			must(t, os.Chmod(put(t, dir+"/f", "old"), 0o600))
		}, "f", "", 0o600, []string{"f"}},
		{"replaced, open mode kept", func(t *testing.T, dir string) {
			must(t, os.Chmod(put(t, dir+"/f", "old"), 0o664))
		}, "f", "", 0o664, []string{"f"}},
		{"link followed", func(t *testing.T, dir string) {
			must(t, os.Chmod(put(t, dir+"/real/f", "old"), 0o600))
			must(t, os.Symlink("real/f", dir+"/link"))
		}, "link", "real/f", 0o600, []string{"f"}},
		{"link of a link followed", func(t *testing.T, dir string) {
			put(t, dir+"/real/f", "old")
			must(t, os.Symlink("real", dir+"/also"))
			must(t, os.Symlink(dir+"/also/f", dir+"/link"))
		}, "link", "real/f", 0o644, []string{"f"}},
		{"link to a file that does not exist yet", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/real", 0o755))
			must(t, os.Symlink("real/f", dir+"/link"))
		}, "link", "real/f", 0o640, []string{"f"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.prepare(t, dir)
			must(t, WriteFile(filepath.Join(dir, c.path), []byte("new"), 0o640))
			real := c.path
			if c.real != "" {
				real = c.real
				if info, err := os.Lstat(filepath.Join(dir, c.path)); err != nil || info.Mode()&fs.ModeSymlink == 0 {
					t.Errorf("the link is gone: %v, %v", info, err)
				}
			}
			holds(t, filepath.Join(dir, real), "new", c.mode, c.files...)
		})
	}
}

// TestWriteKeepsOwner: a users file of the service's account still belongs to it after root has set a password.
func TestWriteKeepsOwner(t *testing.T) {
	needRoot(t)
	name := put(t, filepath.Join(t.TempDir(), "f"), "old")
	must(t, os.Chown(name, 1234, 5678))
	must(t, os.Chmod(name, 0o640))
	must(t, WriteFile(name, []byte("new"), 0o600))
	holds(t, name, "new", 0o640, "f")
	info, err := os.Stat(name)
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 5678 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
}

// TestWriteCannotKeepOwner: an account that may write to the directory, but not give files away, changes nothing.
func TestWriteCannotKeepOwner(t *testing.T) {
	if dir := os.Getenv("SAFEFILE_FOREIGN"); dir != "" {
		err := WriteFile(dir, []byte("new"), 0o600)
		if err == nil || !strings.Contains(err.Error(), "belongs to user 0") {
			t.Errorf("got %v", err)
		}
		return
	}
	needRoot(t)
	dir, err := os.MkdirTemp("/tmp", "safefile")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o777))
	name := put(t, dir+"/f", "old")
	self, err := os.Executable()
	must(t, err)
	b, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(dir+"/test", b, 0o755))
	cmd := exec.Command(dir+"/test", "-test.run=^TestWriteCannotKeepOwner$")
	cmd.Env = append(os.Environ(), "SAFEFILE_FOREIGN="+name)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	holds(t, name, "old", 0o644, "f", "test")
}

// TestWriteFails: what is no regular file is not replaced, and a content that cannot be made changes nothing.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, syscall.Mkfifo(dir+"/pipe", 0o644))
	must(t, os.Symlink("pipe", dir+"/link"))
	must(t, os.Symlink("loop", dir+"/loop"))
	for _, name := range []string{"d", "pipe", "link", "loop", "missing/f"} {
		if err := WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if info, err := os.Lstat(dir + "/pipe"); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("the pipe is gone: %v, %v", info, err)
	}
	name := put(t, filepath.Join(t.TempDir(), "f"), "old")
	broken := errors.New("broken")
	err := Write(name, 0o644, func(f *os.File) error {
		f.WriteString("half")
		return broken
	})
	if err != broken {
		t.Errorf("got %v", err)
	}
	holds(t, name, "old", 0o644, "f")
}

// TestWriteSyncs: the file before it gets its name, and the directory after.
func TestWriteSyncs(t *testing.T) {
	if name := os.Getenv("SAFEFILE_TRACED"); name != "" {
		must(t, WriteFile(name, []byte("new"), 0o644))
		return
	}
	strace, err := exec.LookPath("strace")
	switch {
	case err != nil && testing.Short():
		t.Skip("strace is missing; left out with -short")
	case err != nil:
		t.Fatal("strace is missing: apt-get install strace")
	}
	name := put(t, filepath.Join(t.TempDir(), "f"), "old")
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(strace, "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", self, "-test.run=^TestWriteSyncs$")
	cmd.Env = append(os.Environ(), "SAFEFILE_TRACED="+name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	file := strings.Index(text, "<"+filepath.Dir(name)+"/.f")
	rename := strings.Index(text, "rename")
	dir := strings.Index(text, "<"+filepath.Dir(name)+">)")
	if file < 0 || rename < file || dir < rename {
		t.Errorf("want fsync of the file, rename, fsync of the directory:\n%s", text)
	}
}

// TestWriteNeverHalf: a reader sees one content or the other, never a part of one or no file.
func TestWriteNeverHalf(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	texts := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 50_000)}
	must(t, WriteFile(name, []byte(texts[0]), 0o644))
	var done atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		defer done.Store(true)
		for i := range 50 {
			must(t, WriteFile(name, []byte(texts[i%2]), 0o644))
		}
	})
	for !done.Load() {
		b, err := os.ReadFile(name)
		if err != nil || string(b) != texts[0] && string(b) != texts[1] {
			t.Errorf("read %d bytes, %v", len(b), err)
			break
		}
	}
	all.Wait()
}

// TestLeftovers: copies that a killed process left are removed, after an hour, and nothing else is.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * leftoverAge)
	for _, name := range []string{".f123456789012345678", ".f20261130", ".f1234567890123456x", ".g123456789012345678"} {
		must(t, os.Chtimes(put(t, filepath.Join(dir, name), "half"), old, old))
	}
	put(t, filepath.Join(dir, ".f876543210987654321"), "being written")
	must(t, WriteFile(filepath.Join(dir, "f"), []byte("new"), 0o644))
	holds(t, filepath.Join(dir, "f"), "new", 0o644, ".f1234567890123456x", ".f20261130", ".f876543210987654321", ".g123456789012345678", "f")
}

// TestOutput: pipes and devices are written to, not replaced.
func TestOutput(t *testing.T) {
	text := func(f *os.File) error {
		_, err := f.WriteString("new")
		return err
	}
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	must(t, syscall.Mkfifo(pipe, 0o644))
	got := make(chan string, 1)
	go func() {
		b, err := os.ReadFile(pipe)
		if err != nil {
			b = []byte(err.Error())
		}
		got <- string(b)
	}()
	must(t, Output(pipe, 0o644, text))
	if s := <-got; s != "new" {
		t.Errorf("through the pipe came %q", s)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		t.Errorf("the pipe is gone: %v, %v", info, err)
	}
	must(t, Output("/dev/null", 0o644, text))
	if info, err := os.Lstat("/dev/null"); err != nil || info.Mode()&fs.ModeDevice == 0 {
		t.Errorf("/dev/null is gone: %v, %v", info, err)
	}
	name := put(t, filepath.Join(t.TempDir(), "f"), "old")
	must(t, os.Chmod(name, 0o600))
	must(t, Output(name, 0o644, text))
	holds(t, name, "new", 0o600, "f")
	if err := Output(dir, 0o644, text); err == nil {
		t.Error("a directory was written to")
	}
}

// TestOutputDevice: as root, a device in a directory that can be written to stays the device.
func TestOutputDevice(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "null")
	needRoot(t)
	must(t, syscall.Mknod(dev, syscall.S_IFCHR|0o666, 1<<8|3))
	must(t, os.Symlink("null", dev+"-link"))
	for _, name := range []string{dev, dev + "-link"} {
		err := Output(name, 0o644, func(f *os.File) error {
			_, err := f.WriteString("new")
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrPermission) { // the file system may be mounted nodev
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Lstat(dev); err != nil || info.Mode()&fs.ModeDevice == 0 {
			t.Errorf("%s: the device is gone: %v, %v", name, info, err)
		}
	}
}

// TestOutputDescriptor: /dev/stdout and its kin are the open file, at its position: appended to, where a shell redirected
// it to a file with >>, and reached where it is a pipe.
func TestOutputDescriptor(t *testing.T) {
	if name := os.Getenv("SAFEFILE_OUTPUT"); name != "" {
		must(t, Output(name, 0o644, func(f *os.File) error {
			_, err := f.WriteString("new\n")
			return err
		}))
		os.Exit(0)
	}
	self, err := os.Executable()
	must(t, err)
	for _, name := range []string{"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"} {
		cmd := exec.Command(self, "-test.run=^TestOutputDescriptor$")
		cmd.Env = append(os.Environ(), "SAFEFILE_OUTPUT="+name)
		if out, err := cmd.Output(); err != nil || string(out) != "new\n" {
			t.Errorf("%s, a pipe: %q, %v", name, out, err)
		}
		file := put(t, filepath.Join(t.TempDir(), "f"), "old\n")
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		must(t, err)
		_, err = f.Seek(0, io.SeekEnd)
		must(t, err)
		cmd = exec.Command(self, "-test.run=^TestOutputDescriptor$")
		cmd.Env, cmd.Stdout = append(os.Environ(), "SAFEFILE_OUTPUT="+name), f
		must(t, cmd.Run())
		f.WriteString("after\n")
		must(t, f.Close())
		holds(t, file, "old\nnew\nafter\n", 0o644, "f")
	}
	if err := Output("/dev/fd/987", 0o644, nil); err == nil {
		t.Error("a descriptor that is not open was written to")
	}
}

// TestCreate: of many that make one file, one does, and it is whole.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "key")
	var made atomic.Int32
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			switch err := Create(name, []byte(strings.Repeat(string(rune('a'+i)), 1000)), 0o600); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(name)
	must(t, err)
	if made.Load() != 1 || len(b) != 1000 || strings.Trim(string(b), string(b[0])) != "" {
		t.Errorf("made %d times, %d bytes", made.Load(), len(b))
	}
	holds(t, name, string(b), 0o600, "key")
}
