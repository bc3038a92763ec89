package main

import (
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

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
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
func said(f engine.Finding) string {
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
	for _, c := range brokenCases(t) {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"check", "--json", c.dir}
			if c.door != "" {
				args = append(args, "--door", c.door)
			}
			code, out, stderr := call("", args...)
			var r checkReport
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v: %s%s", err, out, stderr)
			}
			var got []string
			faults := 0
			for _, f := range r.Policy {
				f.File = strings.ReplaceAll(f.File, c.dir, "BUNDLE")
				got = append(got, said(f))
				if f.Severity == engine.Fault {
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
			if warns && (faults > 0 || len(got) == 0 || code != exitOK) || !warns && (faults == 0 || code != exitFailed) {
				t.Errorf("exit code %d with %d faults in %d findings", code, faults, len(got))
			}
			if warns {
				if code, _, _ := call("", append(args, "--strict")...); code != exitFailed {
					t.Errorf("exit code %d with --strict", code)
				}
			}
			c.activate(t, r.Policy, faults)
		})
	}
}

// activate hands the bundle to the gate, as the daemon does.
func (c *brokenCase) activate(t *testing.T, found []engine.Finding, faults int) {
	cfg := config.Default(t.TempDir())
	cfg.Policy.Bundle = c.dir
	if c.door == "both" {
		cfg.Milter.Listen = []config.MilterListener{{Name: "m", Network: "tcp", Address: "127.0.0.1:0"}}
	}
	var eng engine.Engine
	feed := newPolicyFeed(cfg, &eng, slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry())
	err := feed.start(context.Background())
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
		if f.Severity == engine.Fault && strings.Contains(err.Error(), place) {
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
