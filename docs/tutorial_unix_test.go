//go:build unix

package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// step is a fenced block of commands and the output that the page shows below it, "" for none.
type step struct {
	commands, shown string
	line            int // of the page
}

var stepFence = regexp.MustCompile("(?s)```sh\n(.*?)```\n(?:\n```text\n(.*?)```\n)?")

func stepsOf(page string) (steps []step) {
	for _, m := range stepFence.FindAllStringSubmatchIndex(page, -1) {
		s := step{commands: page[m[2]:m[3]], line: 1 + strings.Count(page[:m[0]], "\n")}
		if m[4] >= 0 {
			s.shown = page[m[4]:m[5]]
		}
		steps = append(steps, s)
	}
	return steps
}

// pattern matches what a step may print: the shown text, in which "..." stands for anything on a line, and a line of "..." alone for any
// number of lines.
func pattern(shown string) *regexp.Regexp {
	var p strings.Builder
	p.WriteString(`(?s)\A`)
	for line := range strings.Lines(shown) {
		if line == "...\n" {
			p.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		for i, part := range strings.Split(strings.TrimSuffix(line, "\n"), "...") {
			if i > 0 {
				p.WriteString(`[^\n]*`)
			}
			p.WriteString(regexp.QuoteMeta(part))
		}
		p.WriteString(`\n`)
	}
	p.WriteString(`\z`)
	return regexp.MustCompile(p.String())
}

// TestTutorial types the commands of the tutorial into one shell, in order, in a checkout, and holds what each block prints
// against what the page shows. The port of the page is replaced only where another program has it.
func TestTutorial(t *testing.T) {
	testenv.NotShort(t, "the commands of a page, which take seconds")
	testenv.NotShort(t, "the built program")
	release, err := testenv.LockDefaultPorts()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	page := read(t, "tutorial/first-spoof.md")
	if l, err := net.Listen("tcp", "127.0.0.1:2587"); err == nil {
		l.Close()
	} else {
		page = strings.ReplaceAll(page, "2587", freePort(t))
	}
	steps := stepsOf(page)
	if len(steps) < 12 {
		t.Fatalf("only %d blocks of commands", len(steps))
	}
	got := runSteps(t, steps)
	for i, s := range steps {
		switch {
		case i >= len(got):
			t.Fatalf("line %d: the commands did not end", s.line)
		case got[i].status != "0":
			t.Fatalf("line %d: exit status %s\n%s", s.line, got[i].status, got[i].text)
		case !pattern(s.shown).MatchString(got[i].text):
			t.Errorf("line %d: the page shows\n%s\nbut the commands print\n%s", s.line, s.shown, got[i].text)
		}
	}
}

type output struct{ text, status string }

// runSteps runs all steps in one shell, so that directories and variables last from one to the next, and returns what each printed.
func runSteps(t *testing.T, steps []step) (outputs []output) {
	t.Helper()
	const mark = "=== end of step, status "
	var script strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&script, "%secho '%s'$?\n", s.commands, mark)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	home := t.TempDir()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "HOME="+home)
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} { // found from HOME otherwise
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimSpace(string(value)))
	}
	// A file, because a pipe would be open as long as the server in the background.
	printed, err := os.Create(filepath.Join(t.TempDir(), "printed"))
	if err != nil {
		t.Fatal(err)
	}
	defer printed.Close()
	cmd.Stdout, cmd.Stderr = printed, printed
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a time-out ends all that the shell has started
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		t.Errorf("the shell: %v", err)
	}
	all, err := os.ReadFile(printed.Name())
	if err != nil {
		t.Fatal(err)
	}
	for {
		text, rest, ended := bytes.Cut(all, []byte(mark))
		if !ended {
			return outputs
		}
		status, rest, _ := bytes.Cut(rest, []byte("\n"))
		outputs = append(outputs, output{strings.ReplaceAll(string(text), "\r\n", "\n"), string(status)}) // a terminal shows both alike
		all = rest
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
