package docs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestCommands holds reference/commands.md against the help of the program: every command has a section with all its flags and no others.
func TestCommands(t *testing.T) {
	testenv.NotShort(t, "the built program")
	sections := map[string]string{}
	for _, s := range strings.Split(read(t, "reference/commands.md"), "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		sections[strings.Trim(title, "`")] = text
	}
	all := helps(t, build(t), "postern")
	if len(all) < 12 {
		t.Fatalf("only %d commands", len(all))
	}
	for command, help := range all {
		title := command
		if shell, ok := strings.CutPrefix(command, "postern completion "); ok {
			title = strings.TrimSuffix(command, " "+shell)
		}
		section, ok := sections[title]
		if !ok {
			t.Errorf("there is no section for %s", command)
		}
		_, flags, _ := strings.Cut(help, "\nFlags:\n")
		own, global, _ := strings.Cut(flags, "\nGlobal Flags:\n")
		if got, want := listedFlags(section), helpFlags(own); !slices.Equal(got, want) {
			t.Errorf("%s: the page lists %q, the help %q", command, got, want)
		}
		if got, want := listedFlags(sections["Flags of every command"]), helpFlags(global); !slices.Equal(got, want) {
			t.Errorf("flags of every command: the page lists %q, the help of %s %q", got, command, want)
		}
	}
	for title := range sections {
		if _, ok := all[title]; !ok && title != "Flags of every command" && title != "postern completion" {
			t.Errorf("there is a section for %s, but no such command", title)
		}
	}
}

// helps returns the help of each command below one that has no commands below itself.
func helps(t *testing.T, postern, command string) map[string]string {
	t.Helper()
	out, err := exec.Command(postern, append(strings.Fields(command)[1:], "--help")...).Output()
	if err != nil {
		t.Fatalf("%s --help: %v", command, err)
	}
	_, list, ok := strings.Cut(string(out), "\nAvailable Commands:\n")
	if !ok {
		return map[string]string{command: string(out)}
	}
	all := map[string]string{}
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		if name := strings.Fields(line)[0]; name != "help" {
			for c, help := range helps(t, postern, command+" "+name) {
				all[c] = help
			}
		}
	}
	return all
}

func helpFlags(help string) (flags []string) {
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z0-9-]+)`).FindAllStringSubmatch(help, -1) {
		flags = append(flags, m[1])
	}
	return sortedFlags(flags)
}

// listedFlags returns the flags in the first cells of the tables of a section.
func listedFlags(section string) (flags []string) {
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range regexp.MustCompile("`(--[a-z0-9-]+)").FindAllStringSubmatch(cells[1], -1) {
				flags = append(flags, m[1])
			}
		}
	}
	return sortedFlags(flags)
}

// sortedFlags leaves out --help, which every command has.
func sortedFlags(flags []string) []string {
	flags = slices.DeleteFunc(flags, func(f string) bool { return f == "--help" })
	slices.Sort(flags)
	return flags
}

// binary is the program, built once for all tests that run it.
type binary struct {
	once sync.Once
	dir  string
	err  error
}

var program binary

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(program.dir)
	os.Exit(code)
}

// build makes the program and returns its path.
func build(t *testing.T) string {
	t.Helper()
	program.once.Do(func() {
		if program.dir, program.err = os.MkdirTemp("", "postern-docs-"); program.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", program.dir, "../cmd/postern").CombinedOutput(); err != nil {
			program.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if program.err != nil {
		t.Fatal(program.err)
	}
	return filepath.Join(program.dir, "postern")
}
