package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestProgressTerminal: a replay that takes its time shows a line on a terminal, and takes it away at its end.
func TestProgressTerminal(t *testing.T) {
	person, terminal := testenv.Terminal(t)
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
		if got != exitcode.Failed || !strings.Contains(stdout.String(), "<stdin>:1: the line is not a JSON object") {
			t.Errorf("code %d, %s", got, stdout.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}
