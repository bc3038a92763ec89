package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/version"
)

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing":         {nil, exitcode.OK, "Exit codes:"},
		"help":            {[]string{"--help"}, exitcode.OK, "postern serve --config"},
		"help of a verb":  {[]string{"passwd", "--help"}, exitcode.OK, "without echo"},
		"unknown verb":    {[]string{"pasword"}, exitcode.Usage, "unknown command"},
		"unknown flag":    {[]string{"version", "--jason"}, exitcode.Usage, "unknown flag: --jason"},
		"needless word":   {[]string{"version", "now"}, exitcode.Usage, "unknown command"},
		"bash completion": {[]string{"completion", "bash"}, exitcode.OK, "__start_postern"},
		"fish completion": {[]string{"completion", "fish"}, exitcode.OK, "complete -c postern"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := call("", c.args...)
			if code != c.code || !strings.Contains(out+stderr, c.want) {
				t.Errorf("code %d, printed\n%s\n%s\nwant %d, %s", code, out, stderr, c.code, c.want)
			}
			if c.code != exitcode.OK && out != "" {
				t.Errorf("an error on standard output: %s", out)
			}
		})
	}
}

// TestHelp: the help of every command has an example and its exit codes, and no line is too long for a terminal of 100 columns.
func TestHelp(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if !strings.Contains(cmd.Long, "Exit codes: 0 ") {
			t.Errorf("%s: its help does not say its exit codes", path)
		}
		if !strings.HasPrefix(cmd.Example, "  postern ") {
			t.Errorf("%s: its help has no example", path)
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 101 {
				t.Errorf("%s: %d columns: %s", path, len(line)-1, line)
			}
		}
		for _, c := range cmd.Commands() {
			check(c)
		}
	}
	p := &program{}
	check(newRootCmd(p, commands(p)))
}

func TestVersion(t *testing.T) {
	code, out, _ := call("", "version")
	if code != exitcode.OK || !strings.HasPrefix(out, "postern ") || !strings.Contains(out, "go1.") {
		t.Errorf("code %d: %s", code, out)
	}
	var r version.Report
	code, out, _ = call("", "version", "--json")
	if code != exitcode.OK || json.Unmarshal([]byte(out), &r) != nil || r.Go == "" {
		t.Errorf("code %d: %s", code, out)
	}
	r = version.Read(&debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}},
		Deps: []*debug.Module{
			{Path: "github.com/open-policy-agent/opa", Version: "v1.22.2"},
			{Path: "github.com/emersion/go-smtp", Version: "v0.25.1", Replace: &debug.Module{Path: "../fork", Version: ""}},
			{Path: "example.com/other", Version: "v1.0.0"},
		},
	})
	if r.Version != "v1.2.3" || r.Revision != "abc" || !r.Modified || len(r.Modules) != 2 || r.Modules["opa"] != "v1.22.2" || !strings.Contains(r.Modules["go-smtp"], "replaced by ../fork") {
		t.Errorf("%+v", r)
	}
	if r := version.Read(nil); r.Version == "" || r.Go == "" {
		t.Errorf("%+v", r)
	}
}

func TestLogLevel(t *testing.T) {
	p := &program{stderr: &bytes.Buffer{}, logLevel: "loud"}
	if _, err := p.logger(config.Log{}); err == nil || !strings.Contains(err.Error(), "--log-level loud") {
		t.Error(err)
	}
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "postern.yaml")
	if err := os.WriteFile(file, []byte("submission: {listen: [\":587\"]}\nauth: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{dir: dir}
	c, found, err := p.loadConfig()
	if err != nil || c.StateDir != dir || len(found) != 1 || found[0].Problem != "is not read" {
		t.Errorf("%+v, %v, %v", c, found, err)
	}
	p = &program{configFile: file, dir: filepath.Join(dir, "state")}
	c, _, err = p.loadConfig()
	if err == nil || c.StateDir != filepath.Join(dir, "state") || !strings.Contains(err.Error(), file+":2:7: auth: nobody could submit") {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestHostileArguments: what is given on the command line, and what a file says, cannot harm the terminal of the person who sees the output.
func TestHostileArguments(t *testing.T) {
	const hostile = "a\x1b[2J\u009bb\u202ec\u200bd\u2028"
	dir := t.TempDir()
	t.Chdir(dir)
	file := filepath.Join(dir, hostile)
	if err := os.WriteFile(file+".yaml", []byte("hostname: \""+hostile[6:]+"\"\n\""+strings.ReplaceAll(hostile, "\x1b", "\\x1b")+"\": 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands(&program{}) {
		if c.Name() == "serve" {
			continue // prints its log the same way
		}
		for _, args := range [][]string{
			{c.Name(), "--" + hostile}, {c.Name(), hostile, hostile, hostile}, {c.Name(), "--config", file + ".yaml", hostile}, {c.Name(), "--json", "--config", file + ".yaml"},
			{c.Name(), "--config", filepath.Join(dir, "no"+hostile)}, {c.Name(), "--log-level", hostile}, {hostile, c.Name()}, {c.Name(), "--bundle", file, "--log", file, hostile},
		} {
			var out, errs strings.Builder
			run(args, strings.NewReader(hostile), &out, &errs)
			for name, text := range map[string]string{"output": out.String(), "errors": errs.String()} {
				if i := strings.IndexAny(text, "\x1b\u009b\u202e\u200b\u2028"); i >= 0 {
					t.Errorf("%q: the %s have %q", args, name, text[i:min(len(text), i+60)])
				}
			}
		}
	}
}
