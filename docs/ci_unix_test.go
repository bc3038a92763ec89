package docs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVulnerabilitiesNotChecked: .ci/vuln ends with 4 if it could reach no database, whether or not GOVULNDB names one. CI then goes on,
// and says so in its last line, also when the tests fail.
func TestVulnerabilitiesNotChecked(t *testing.T) {
	const unreachable = "http://127.0.0.1:9" // the port of discard, where nothing listens
	for name, env := range map[string][]string{
		"GOVULNDB is down":        {"GOVULNDB=" + unreachable},
		"GOVULNDB is no database": {"GOVULNDB=file://" + t.TempDir()},
		"nothing answers":         {"GOVULNDB=", "GOPROXY=off", "GOMODCACHE=" + t.TempDir(), "https_proxy=" + unreachable, "HTTPS_PROXY=" + unreachable},
	} {
		out, code := runCI(t, "..", "../.ci/vuln", env...)
		if code != 4 || !strings.Contains(out, "NOT CHECKED: ") {
			t.Errorf("%s: .ci/vuln ended with %d:\n%s", name, code, out)
		}
	}
	const last = "vulnerabilities: NOT CHECKED, because no database could be reached; run .ci/vuln again later\n"
	for _, c := range []struct {
		vuln, test string
		code       int
		said       bool
	}{{"exit 4", "true", 0, true}, {"exit 4", "exit 1", 1, true}, {"true", "true", 0, false}, {"exit 3", "true", 3, false}} {
		dir := t.TempDir()
		run, err := os.ReadFile("../.ci/run")
		if err != nil {
			t.Fatal(err)
		}
		for file, script := range map[string]string{".ci/run": string(run), ".ci/install": "", ".ci/vuln": c.vuln, ".ci/test": c.test, "bin/make": ""} {
			path := filepath.Join(dir, file)
			if !strings.HasPrefix(script, "#!") {
				script = "#!/bin/sh\n" + script + "\n"
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(script), 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		out, code := runCI(t, dir, filepath.Join(dir, ".ci/run"), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
		if code != c.code || strings.HasSuffix(out, last) != c.said {
			t.Errorf(".ci/vuln is %q and .ci/test %q: .ci/run ended with %d:\n%s", c.vuln, c.test, code, out)
		}
	}
}

// runCI runs a script, and returns what it printed and its exit code.
func runCI(t *testing.T, dir, script string, env ...string) (out string, code int) {
	t.Helper()
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
