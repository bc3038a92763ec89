package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestProgressTerminal: a replay that takes its time shows a line on a terminal, and takes it away at its end.
func TestProgressTerminal(t *testing.T) {
	person, terminal := openTerminal(t)
	in, feed := io.Pipe()
	var stdout bytes.Buffer
	code := make(chan int, 1)
	go func() { code <- run([]string{"replay", "--bundle", "../../policies", "-"}, in, &stdout, terminal) }()
	until(t, person, "MB/s")
	io.WriteString(feed, "no decision\n")
	feed.Close()
	seen := until(t, person, "decisions a second")
	if i := strings.LastIndex(seen, "\x1b[K"); i < 0 || !strings.HasPrefix(seen[i:], "\x1b[Ktook ") {
		t.Errorf("the terminal keeps %q", seen)
	}
	select {
	case got := <-code:
		if got != exitFailed || !strings.Contains(stdout.String(), "<stdin>:1: the line is no JSON object") {
			t.Errorf("code %d, %s", got, stdout.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestProgressLine(t *testing.T) {
	p := &progress{total: 2_000_000}
	p.octets.Store(500_000)
	p.records.Store(12_345)
	if got, want := p.line(10*time.Second), "[======                  ]  25%  12,345 records, 1,234/s, 30s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p = &progress{}
	p.octets.Store(5_000_000)
	if got, want := p.line(2*time.Second), "5 MB, 2 MB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := thousands(n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a\nb\tc": "a b c", "\x1b[2Jx\u202ey\xff": "?[2Jx?y?", "grün": "grün", "0123456789x": "0123456789...",
	} {
		if got := printable(in, 10); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestSearchBackward finds lines at every place of a file that is read in blocks, and stops when what is left is too old.
func TestSearchBackward(t *testing.T) {
	line := func(id, day string) string {
		return `{"decision_id":"d-` + id + `","timestamp":"2026-06-` + day + `T00:00:00Z","id":"` + id + `","stage":"mail","result":{"verdict":"accept","rules":[]}}` + "\n"
	}
	filler := strings.Repeat(line("other", "10"), 2*searchBlock/len(line("other", "10")))
	for name, c := range map[string]struct {
		text string
		hits int
	}{
		"first line":         {line("x", "10") + filler, 1},
		"last line":          {filler + line("x", "10"), 1},
		"no line end":        {filler + strings.TrimSuffix(line("x", "10"), "\n"), 1},
		"everywhere":         {line("x", "10") + filler + line("x", "10") + filler + line("x", "10"), 3},
		"none":               {filler, 0},
		"the id of long ago": {line("x", "01") + strings.ReplaceAll(filler, "06-10", "06-02") + filler + line("x", "10"), 1},
		"a huge line":        {line("x", "10") + `{"z":"` + strings.Repeat("y", 3*searchBlock) + "\"}\n" + line("x", "10"), 2},
	} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := newSearch("x", nil, startProgress(io.Discard, 0), nil)
		if err := s.run(t.Context(), []string{file}); err != nil || len(s.hits) != c.hits || len(s.bad) > 0 {
			t.Errorf("%s: %d hits, want %d; %v %v", name, len(s.hits), c.hits, s.bad, err)
		}
	}
}
