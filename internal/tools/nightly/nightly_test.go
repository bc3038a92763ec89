package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRun: every part runs, also after one that failed. The summary has the outcome of each, and the logs have commit and machine.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	shell := func(name, script string, facts *regexp.Regexp) part {
		return part{Name: name, Args: []string{"sh", "-c", script}, Env: []string{"ADDED=7"}, Facts: facts}
	}
	r := &report{Began: time.Now(), About: "commit abc", Warnings: []string{"not quiet"}, Dir: dir}
	var out bytes.Buffer
	err := r.runLanes(t.Context(), [][]part{
		{shell("build", "exit 3", nil), shell("kill -9", "echo 'x: killed 5 times in 2s'", killFacts)},
		{shell("FuzzA for 1s", "echo 'fuzz: elapsed: 1s, execs: 12 (4/sec)'; echo 'fuzz: elapsed: 2s, execs: 345 (4/sec)'; echo $ADDED", fuzzFacts)},
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.finish(&out); err == nil || !strings.Contains(err.Error(), "1 of 3 parts failed") {
		t.Errorf("the error is %v", err)
	}
	summary, err := os.ReadFile(filepath.Join(dir, "summary.txt"))
	if err != nil || !strings.HasSuffix(out.String(), string(summary)) {
		t.Errorf("%v; printed:\n%s\nwritten:\n%s", err, out.String(), summary)
	}
	for _, want := range []string{"nightly: commit abc\n", "WARNING: not quiet", "FAIL build, took 0s: exit status 3; see " + filepath.Join(dir, "build.log"),
		"ok   kill -9, took 0s: killed 5 times in 2s\n", "ok   FuzzA for 1s, took 0s: 345 executions\n"} {
		if !strings.Contains(string(summary), want) {
			t.Errorf("the summary lacks %q:\n%s", want, summary)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "FuzzA-for-1s.log"))
	if text := string(log); err != nil || !strings.HasPrefix(text, "# commit abc\n# began ") || !strings.Contains(text, "load average then") || !strings.Contains(text, "\n7\n# ended ") {
		t.Errorf("%v; the log:\n%s", err, text)
	}
}

// TestStopped: the end of the context ends the part that runs, with its processes, and the parts after it do not run and count as failed.
func TestStopped(t *testing.T) {
	r := &report{Began: time.Now(), Dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	child := filepath.Join(r.Dir, "child")
	long := part{Name: "long", Args: []string{"sh", "-c", "sleep 60 & echo $! >" + child + "; wait"}}
	var out bytes.Buffer
	if err := r.runLanes(ctx, [][]part{{long, {Name: "after", Args: []string{"true"}}}}, &out); err != nil {
		t.Fatal(err)
	}
	if err := r.finish(&out); err == nil || !strings.Contains(out.String(), "FAIL after, took 0s: not run") || time.Since(r.Began) > 30*time.Second {
		t.Errorf("%v after %v:\n%s", err, time.Since(r.Began), out.String())
	}
	text, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	stat := "/proc/" + strings.TrimSpace(string(text)) + "/stat"
	for range 100 { // until it has died; a zombie is dead, too
		if b, err := os.ReadFile(stat); err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("a process that the part had started still runs")
}

// TestLanes: what is left out does not run; -beside gives the soak and the rest a processor each.
func TestLanes(t *testing.T) {
	t.Chdir("../../..")
	o := options{Soak: "10s", SoakFlags: "-calibrate 5s", Kills: 2, Fuzz: "FuzzHeader|FuzzFold", FuzzTime: "5s"}
	lanes, err := o.lanes(t.Context(), "logs")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range lanes[0] {
		got = append(got, p.Name)
	}
	if want := "build, soak for 10s, kill -9, 2 of each kind, FuzzHeader for 5s, FuzzFold for 5s"; len(lanes) != 1 || strings.Join(got, ", ") != want {
		t.Errorf("%d lanes, %q", len(lanes), got)
	}
	o.Beside = true
	if lanes, err = o.lanes(t.Context(), "logs"); err != nil || len(lanes) != 2 || strings.Join(lanes[0][1].Args[:3], " ") != "taskset -c 0" ||
		strings.Join(lanes[1][0].Args[:3], " ") != "taskset -c 1" || len(lanes[1]) != 3 {
		t.Errorf("%v: %v", err, lanes)
	}
	none := options{Soak: "0", Fuzz: "none", FuzzTime: "1s"}
	if err := none.check(); err == nil {
		t.Error("a run of nothing is accepted")
	}
	for _, bad := range []options{{Soak: "x", FuzzTime: "1s"}, {Soak: "1s", FuzzTime: "-1s"}, {Soak: "1s", FuzzTime: "1s", Kills: -1}} {
		if bad.check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	none.Fuzz = "FuzzNobodyWrote"
	if _, err := none.lanes(t.Context(), "logs"); err == nil {
		t.Error("a pattern that matches no target is accepted")
	}
}

// TestChangedBelow: a target runs if a file of its package, or of one below it, changed.
func TestChangedBelow(t *testing.T) {
	for _, c := range []struct {
		pkg, files string
		want       bool
	}{
		{"./smtpd", "docs/a.md\nsmtpd/wire/conn.go\n", true}, {"./smtpd", "smtpd/data.go", true}, {"./smtpd", "smtpdx/data.go\nmilter/smtpd/x.go", false},
		{"./smtpd/wire", "smtpd/data.go\n", false}, {"./smtpd", "", false},
	} {
		if got := changedBelow(c.pkg, c.files); got != c.want {
			t.Errorf("%s with %q: %v", c.pkg, c.files, got)
		}
	}
}
