package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/cmd/postern/check"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/feed"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
)

var updateBroken = flag.Bool("update-broken", false, "rewrite what testdata/broken wants")

const brokenDir = "../../testdata/broken"

// brokenCase is one broken bundle: its files, and in the section want a line for each finding, as `postern check` finds
// them. The comment says what is wrong; a line "door: NAME" in it is --door.
type brokenCase struct {
	name, file string
	archive    *txtar.Archive
	dir        string // of the bundle, written out
	door       string
	want       []string
}

func brokenCases(t *testing.T) []*brokenCase {
	t.Helper()
	files, err := filepath.Glob(brokenDir + "/*.txtar")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d broken bundles, %v", len(files), err)
	}
	var cases []*brokenCase
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := &brokenCase{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), file: file, archive: a, dir: t.TempDir()}
		for line := range strings.Lines(string(a.Comment)) {
			if door, ok := strings.CutPrefix(line, "door: "); ok {
				c.door = strings.TrimSpace(door)
			}
		}
		for _, f := range a.Files {
			if f.Name == "want" {
				c.want = strings.FieldsFunc(string(f.Data), func(r rune) bool { return r == '\n' })
				continue
			}
			name := filepath.Join(c.dir, filepath.FromSlash(f.Name))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cases = append(cases, c)
	}
	return cases
}

// said is a finding as the section want has it.
func said(f contract.Finding) string {
	place := f.File
	if f.Line > 0 {
		place += fmt.Sprintf(":%d", f.Line)
	}
	if f.Column > 0 {
		place += fmt.Sprintf(":%d", f.Column)
	}
	line := fmt.Sprintf("%s: %s: %s [%s]", place, f.Severity, f.Message, f.Code)
	if f.Hint != "" {
		line += " => " + f.Hint
	}
	return line
}

// TestBroken runs every broken bundle through `postern check` and through activation. Those named warn-* are taken, with
// a warning; all others are refused by both, and both name the place.
func TestBroken(t *testing.T) {
	seen := map[string]bool{}
	defer func() {
		for _, r := range contract.Rules() {
			// The first two are not about files of a bundle. "slow" depends on the machine and has its test in engine.
			if !seen[r.Code] && r.Code != "policy" && r.Code != "unknown-builtin" && r.Code != contract.CodeSlow {
				t.Errorf("no broken bundle shows %s", r.Code)
			}
		}
	}()
	for _, c := range brokenCases(t) {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"check", "--json", c.dir}
			if c.door != "" {
				args = append(args, "--door", c.door)
			}
			code, out, stderr := call("", args...)
			var r check.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v: %s%s", err, out, stderr)
			}
			var got []string
			faults := 0
			for _, f := range r.Policy {
				f.File = strings.ReplaceAll(f.File, c.dir, "BUNDLE")
				got = append(got, said(f))
				seen[f.Code] = true
				if f.Severity == contract.Fault {
					faults++
				}
				if f.File == "" || f.Line > 0 && f.Text == "" {
					t.Errorf("no place: %+v", f)
				}
			}
			if *updateBroken {
				c.update(t, got)
			} else if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			warns := strings.HasPrefix(c.name, "warn-")
			if warns && (faults > 0 || len(got) == 0 || code != exitcode.OK) || !warns && (faults == 0 || code != exitcode.Failed) {
				t.Errorf("exit code %d with %d faults in %d findings", code, faults, len(got))
			}
			if warns {
				if code, _, _ := call("", append(args, "--strict")...); code != exitcode.Failed {
					t.Errorf("exit code %d with --strict", code)
				}
			}
			c.activate(t, r.Policy, faults)
		})
	}
}

// gate hands the bundle to the daemon's gate.
func (c *brokenCase) gate(t *testing.T) (*engine.Engine, error) {
	cfg := config.Default(t.TempDir())
	cfg.Policy.Bundle = c.dir
	if c.door == "both" {
		cfg.Milter.Listen = []config.MilterListener{{Name: "m", Network: "tcp", Address: "127.0.0.1:0"}}
	}
	var eng engine.Engine
	f, err := feed.New(cfg.Policy, gate.Options(cfg), "", &eng, slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry())
	if err != nil {
		return &eng, err
	}
	return &eng, f.Watcher.Start(context.Background())
}

// refused says that the gate refuses it.
func (c *brokenCase) refused(t *testing.T) {
	if eng, err := c.gate(t); err == nil || eng.Policy() != nil {
		t.Errorf("activated")
	}
}

// activate says that the gate does with the bundle what check says.
func (c *brokenCase) activate(t *testing.T, found []contract.Finding, faults int) {
	eng, err := c.gate(t)
	if faults == 0 {
		if err != nil || eng.Policy() == nil || len(eng.Policy().Warnings()) < len(found) {
			t.Errorf("activation: %v; wanted the policy and its warnings", err)
		}
		return
	}
	if err == nil || eng.Policy() != nil {
		t.Fatal("activated")
	}
	for _, f := range found {
		place := f.File
		if f.Line > 0 {
			place += fmt.Sprintf(":%d:", f.Line)
		}
		if f.Severity == contract.Fault && strings.Contains(err.Error(), place) {
			return
		}
	}
	t.Errorf("activation does not name the place: %v", err)
}

func (c *brokenCase) update(t *testing.T, got []string) {
	for i, f := range c.archive.Files {
		if f.Name == "want" {
			c.archive.Files[i].Data = []byte(strings.Join(got, "\n") + "\n")
		}
	}
	if err := os.WriteFile(c.file, txtar.Format(c.archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenArchives does the same with tarballs that only a program can make.
func TestBrokenArchives(t *testing.T) {
	const rego = "package postern.mail\n\nreject contains \"x\" if input.envelope.from.null\n"
	file := func(name, text string) tar.Header { return tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))} }
	for name, c := range map[string]struct {
		header tar.Header
		text   string
		cut    int // octets left out at the end
		want   string
	}{
		"leads out":     {file("../x.rego", rego), rego, 0, "leads out"},
		"link":          {tar.Header{Name: "x.rego", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, "", 0, "x.rego: is a link"},
		"device":        {tar.Header{Name: "x.rego", Typeflag: tar.TypeChar}, "", 0, "x.rego"},
		"bomb":          {tar.Header{Name: "data.json", Mode: 0o644, Size: 257 << 20}, "{}", 0, "data.json: "},
		"truncated":     {file("x.rego", rego), rego, 40, "truncated"},
		"broken inside": {file("postern/mail/x.rego", "package postern.mail\nx {"), "package postern.mail\nx {", 0, "postern/mail/x.rego:2:"},
	} {
		t.Run(name, func(t *testing.T) {
			var packed bytes.Buffer
			zip := gzip.NewWriter(&packed)
			archive := tar.NewWriter(zip)
			if err := archive.WriteHeader(&c.header); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(archive, c.text); err != nil {
				t.Fatal(err)
			}
			// The one that says to be larger than it is must be refused for what it says.
			if err := archive.Close(); err != nil && c.header.Size <= int64(len(c.text)) {
				t.Fatal(err)
			}
			if err := zip.Close(); err != nil {
				t.Fatal(err)
			}
			bundle := filepath.Join(t.TempDir(), "bundle.tar.gz")
			if err := os.WriteFile(bundle, packed.Bytes()[:packed.Len()-c.cut], 0o644); err != nil {
				t.Fatal(err)
			}
			code, _, stderr := call("", "check", bundle)
			if code != exitcode.Failed || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, "[load]") && !strings.Contains(stderr, "[rego_parse_error]") {
				t.Errorf("exit code %d\n%s\nwant %q", code, stderr, c.want)
			}
			broken := &brokenCase{dir: bundle}
			broken.refused(t)
		})
	}
}
