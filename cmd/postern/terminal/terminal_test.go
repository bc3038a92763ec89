package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestProgressLine(t *testing.T) {
	p := &Progress{total: 2_000_000}
	p.Bytes.Store(500_000)
	p.Records.Store(12_345)
	if got, want := p.line(10*time.Second), "[======                  ]  25%  12,345 records, 1,234/s, 30s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p = &Progress{}
	p.Bytes.Store(5_000_000)
	if got, want := p.line(2*time.Second), "5 MB, 2 MB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := Thousands(n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestOutput holds that text from outside cannot move the cursor, and that a terminal keeps its colours.
func TestOutput(t *testing.T) {
	var b strings.Builder
	out := NewOutput(&b)
	fmt.Fprint(out, "a\x1b[2Kb\x1b[31mc\u009bd\u202ee\rf\ng\th\xffi\u200b")
	if err := out.Flush(); err != nil || b.String() != `a\u001b[2Kb\u001b[31mc\u009bd\u202ee\u000df`+"\ng\th"+`\ufffdi\u200b` {
		t.Errorf("got %q, %v", b.String(), err)
	}
	if raw(out) != io.Writer(&b) || Is(out) {
		t.Error("the stream below is not found")
	}
	for _, format := range []string{"json", "text"} {
		b.Reset()
		NewLogger(out, format, slog.LevelInfo).Info("m\u009b", "k", "v\u202e\u0085\x1b")
		if strings.ContainsAny(b.String(), "\u009b\u202e\u0085\x1b") || !strings.Contains(b.String(), `\u202e`) {
			t.Errorf("%s: %q", format, b.String())
		}
	}
}

// TestCounter: it counts on a terminal when it takes long, and the count is gone at the end.
func TestCounter(t *testing.T) {
	var b bytes.Buffer
	p := &Counter{w: &b, what: "tests", all: 3}
	p.Done()
	p.End()
	if got := b.String(); got != "\r\x1b[K1 of 3 tests\r\x1b[K" {
		t.Errorf("%q", got)
	}
	b.Reset()
	p = &Counter{w: &b, what: "tests", all: 3, next: time.Now().Add(time.Hour)}
	p.Done()
	p.End()
	if b.Len() > 0 {
		t.Errorf("%q", b.String())
	}
	if p := NewCounter(&b, 3, "tests"); p.w != nil {
		t.Error("it counts where no terminal is")
	}
}

func TestLogger(t *testing.T) {
	for _, c := range []struct {
		format, want string
	}{{"json", `"msg":"hello"`}, {"auto", `"msg":"hello"`}, {"text", "INF hello n=1"}} {
		var b bytes.Buffer
		log := NewLogger(&b, c.format, slog.LevelInfo)
		log.Debug("quiet")
		log.Info("hello", "n", 1)
		if !strings.Contains(b.String(), c.want) || strings.Contains(b.String(), "quiet") || strings.Contains(b.String(), "\x1b") {
			t.Errorf("%s: %q", c.format, b.String())
		}
	}
}

// TestLongLogValues: no message and no value makes a line of the log longer than its bound, and the number of bytes that are cut off is there.
func TestLongLogValues(t *testing.T) {
	long := strings.Repeat("\u00fc", maxLogText) // two bytes each
	for _, format := range []string{"json", "text"} {
		for name, value := range map[string]any{"text": long, "error": errors.New(long), "list": []string{long}, "bytes": []byte(long)} {
			var b strings.Builder
			NewLogger(&b, format, slog.LevelInfo).Info("m", "k", value)
			if n := b.Len(); n < maxLogText || n > maxLogText+200 || !strings.Contains(b.String(), "bytes more)") || !utf8.ValidString(b.String()) {
				t.Errorf("%s, %s: %d bytes, ending in %q", format, name, n, b.String()[max(n-60, 0):])
			}
			b.Reset()
			NewLogger(&b, format, slog.LevelInfo).Info("m", "k", value, "short", strings.Repeat("x", maxLogText))
			if strings.Count(b.String(), "bytes more)") != 1 {
				t.Errorf("%s, %s: a value that fits was cut", format, name)
			}
		}
		var b strings.Builder
		NewLogger(&b, format, slog.LevelInfo).Info(long)
		if n := b.Len(); n > maxLogText+200 {
			t.Errorf("%s: a message of %d bytes", format, n)
		}
	}
}
