package main

import (
	"bytes"
	"context"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/trial"
	"github.com/postern-mail/postern/policies"
)

var update = flag.Bool("update", false, "rewrite what the golden transactions want")

// golden calls test for each transaction of testdata/transactions, with an engine that has its bundle and data.
func golden(t *testing.T, test func(t *testing.T, c *trial.Case, eng *engine.Engine, file string)) {
	files, err := filepath.Glob("../../testdata/transactions/*.txtar")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d golden transactions, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := trial.ParseCase(filepath.Base(file), text)
			if err != nil {
				t.Fatal(err)
			}
			test(t, c, goldenEngine(t, c), file)
		})
	}
}

func goldenEngine(t *testing.T, c *trial.Case) *engine.Engine {
	t.Helper()
	var source fs.FS = policies.FS
	if len(c.Policy) > 0 {
		m := fstest.MapFS{}
		for name, text := range c.Policy {
			m[name] = &fstest.MapFile{Data: text}
		}
		source = m
	}
	var data []string
	if len(c.Data) > 0 {
		file := filepath.Join(t.TempDir(), "data.yaml")
		if err := os.WriteFile(file, c.Data, 0o600); err != nil {
			t.Fatal(err)
		}
		data = append(data, file)
	}
	candidate, err := bundles.Load(context.Background(), bundles.FS(source, c.Name), data...)
	if err != nil {
		t.Fatal(err)
	}
	p, err := gate.Compile(context.Background(), candidate, engine.Options{Timeout: 10 * time.Second}) // a busy machine decides the same
	if err != nil {
		t.Fatal(err)
	}
	eng := &engine.Engine{}
	eng.Swap(p)
	return eng
}

// TestGoldenEngine decides the golden transactions by the engine alone, as `postern eval` does. With -update it writes
// what came into the files; the other doors then have to give the same.
func TestGoldenEngine(t *testing.T) {
	golden(t, func(t *testing.T, c *trial.Case, eng *engine.Engine, file string) {
		r, err := trial.Run(context.Background(), eng, c.Transaction)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			text, err := c.Update(r)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if got := r.Describe(); got != c.Want {
			t.Errorf("got:\n%s\nwant:\n%s", got, c.Want)
		}
		if got := r.Bytes(); !bytes.Equal(got, c.WantMessage) {
			t.Errorf("got:\n%s\nwant:\n%s", got, c.WantMessage)
		}
	})
}
