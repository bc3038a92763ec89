package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestFingerprint: the same program has the same text each time, and another file of the same size does not.
func TestFingerprint(t *testing.T) {
	if os.Getenv("PRINT_FINGERPRINT") != "" {
		text, err := Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(text + "\n")
		os.Exit(0)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, data, 0o700); err != nil {
		t.Fatal(err)
	}
	print := func() string {
		t.Helper()
		cmd := exec.Command(name, "-test.run=^TestFingerprint$")
		cmd.Env = append(os.Environ(), "PRINT_FINGERPRINT=1")
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) != 65 {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	first := print()
	if again := print(); again != first {
		t.Errorf("%q, then %q", first, again)
	}
	if err := os.Chtimes(name, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if rebuilt := print(); rebuilt == first {
		t.Error("a program that was built again counts as the same")
	}
}
