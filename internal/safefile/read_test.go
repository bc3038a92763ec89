package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadSecret(t *testing.T) {
	cases := []struct {
		name, text, want, fails string
	}{
		{"a line", "hunter2\n", "hunter2", ""},
		{"no line end", "hunter2", "hunter2", ""},
		{"CRLF", "hunter2\r\n", "hunter2", ""},
		{"CR at the end", "hunter2\r", "hunter2", ""},
		{"more lines", "hunter2\n# of the relay\n", "hunter2", ""},
		{"spaces are part of it", " s 3 \n", " s 3 ", ""},
		{"UTF-8", "pässword\n", "pässword", ""},
		{"empty", "", "", "first line is empty"},
		{"empty first line", "\nhunter2\n", "", "first line is empty"},
		{"empty first line, CRLF", "\r\nhunter2\r\n", "", "first line is empty"},
		{"white space", " \t\u00a0\nhunter2\n", "", "first line is empty"},
		{"NUL", "hun\x00ter2\n", "", "NUL"},
		{"CR inside", "hun\rter2\n", "", "CR"},
		{"as long as may be", strings.Repeat("x", maxSecret), strings.Repeat("x", maxSecret), ""},
		{"too long", strings.Repeat("x", maxSecret+1), "", "longer than 65536 bytes"},
		{"too long after the first line", "hunter2\n" + strings.Repeat("x", maxSecret), "", "longer than 65536 bytes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			name := put(t, filepath.Join(t.TempDir(), "relay.pass"), c.text)
			got, err := ReadSecret(name)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			switch {
			case c.fails == "":
				must(t, err)
			case err == nil || !strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), name):
				t.Errorf("got %v, want %q and the file's name", err, c.fails)
			case strings.Contains(err.Error(), "ter2"):
				t.Errorf("the error quotes the secret: %v", err)
			}
		})
	}
}

// TestReadFile: what is no regular file is an error at once, and does not wait for a writer.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(dir+"/pipe", 0o644))
	put(t, dir+"/real", "text")
	must(t, os.Symlink("real", dir+"/link"))
	if b, err := ReadFile(dir+"/link", 4); err != nil || string(b) != "text" {
		t.Errorf("got %q, %v", b, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, name := range []string{dir, dir + "/pipe", "/dev/zero"} {
			var pe *fs.PathError
			if _, err := ReadFile(name, 10); !errors.As(err, &pe) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if _, err := ReadFile(dir+"/none", 10); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
		if _, err := ReadFile(dir+"/real", 3); err == nil || !strings.Contains(err.Error(), "longer than 3 bytes") {
			t.Errorf("got %v", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for somebody to write to the pipe")
	}
}

func FuzzReadSecret(f *testing.F) {
	for _, s := range []string{"hunter2\n", "", "\n", "\r\nx", "a\x00b", " \t\n"} {
		f.Add([]byte(s))
	}
	name := filepath.Join(f.TempDir(), "secret")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(name, data, 0o600))
		got, err := ReadSecret(name)
		switch {
		case err != nil && got != "":
			t.Errorf("both a secret and an error: %q, %v", got, err)
		case err == nil && (strings.TrimSpace(got) == "" || strings.ContainsAny(got, "\r\n\x00") || !strings.HasPrefix(string(data), got)):
			t.Errorf("%q is the secret of %q", got, data)
		}
	})
}
