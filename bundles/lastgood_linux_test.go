package bundles

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestLastGoodIsSynced: each file of the copy is on disk before it gets its name, and so is the name before anything is reported, so that
// a machine that goes down leaves the old copy or the new one.
func TestLastGoodIsSynced(t *testing.T) {
	if dir := os.Getenv("BUNDLES_TRACED"); dir != "" {
		if _, err := starting(t, Dir(filepath.Join(dir, "b")), filepath.Join(dir, "state"), func(w *Watcher) { w.Tester = "one" }); err != nil {
			t.Fatal(err)
		}
		return
	}
	testenv.NotShort(t, "strace")
	dir := tempDir(t, map[string]string{"b/a.rego": module})
	self, err := os.Executable()
	testenv.Must(t, err)
	cmd := exec.Command(testenv.Program(t, "strace", "strace"), "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", self, "-test.run=^TestLastGoodIsSynced$")
	cmd.Env = append(os.Environ(), "BUNDLES_TRACED="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	state := regexp.QuoteMeta(filepath.Join(dir, "state"))
	var calls []string
	for line := range strings.Lines(string(out)) {
		if m := regexp.MustCompile(`(fsync)\(\d+<` + state + `/?([^>]*)>|(rename)\w*\(.*"` + state + `/([^"]+)"(?:, 0)?\)`).FindStringSubmatch(line); m != nil {
			calls = append(calls, m[1]+m[3]+" "+regexp.MustCompile(`\d{9,}$`).ReplaceAllString(m[2]+m[4], ""))
		}
	}
	var want []string
	for _, name := range []string{lastGoodDocuments, lastGood, lastGoodTests} {
		want = append(want, "fsync ."+name, "rename "+name, "fsync ")
	}
	if got := strings.Join(calls, "; "); got != strings.Join(want, "; ") {
		t.Errorf("got  %s\nwant %s\n%s", got, strings.Join(want, "; "), out)
	}
}
