// Package terminal prints for people who look at a terminal: colours, text that cannot harm the terminal, progress, and logs.
// Where the output is no terminal it leaves colours and progress out.
//
// Progress owns the only goroutine; it ends in Stop.
package terminal

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"
	"unicode/utf8"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/postern-mail/postern/internal/printable"
)

// NewOutput returns a stream on which nothing that comes from outside can move the cursor, change the direction of writing or hide text. Flush must
// be called at the end.
func NewOutput(w io.Writer) *printable.Writer { return &printable.Writer{W: w, Colours: Is(w)} }

// raw returns the stream below NewOutput, for what moves the cursor on purpose.
func raw(w io.Writer) io.Writer {
	if out, ok := w.(*printable.Writer); ok {
		return out.W
	}
	return w
}

// Is reports whether a stream is a terminal.
func Is(stream any) bool {
	if out, ok := stream.(*printable.Writer); ok {
		stream = out.W
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// maxLogText bounds a message or value in a log, in bytes. The stack of a panic fits.
const maxLogText = 16 << 10

// NewLogger returns a logger that writes to w. format is "json", "text", or "auto" for text on a terminal and JSON elsewhere. Messages and values have
// at most 16 KiB, and then "..." and how many bytes were cut off.
func NewLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	if format == "json" || format != "text" && !Is(w) {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: boundAttr}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level:       level,
		TimeFormat:  time.TimeOnly,
		NoColor:     !Is(w) || os.Getenv("NO_COLOR") != "", // https://no-color.org
		ReplaceAttr: boundAttr,
	}))
}

// boundAttr cuts the text of an attribute that is too long.
func boundAttr(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case *slog.Source, slog.Level, nil:
			return a
		case error:
			text = v.Error()
		case []byte:
			text = string(v)
		default:
			text = fmt.Sprint(v)
		}
	}
	if len(text) <= maxLogText {
		return a
	}
	cut := maxLogText
	for cut > maxLogText-utf8.UTFMax && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return slog.String(a.Key, fmt.Sprintf("%s... (%d bytes more)", text[:cut], len(text)-cut))
}

// Colours on a terminal (ECMA-48).
const (
	Red    = "\x1b[31m"
	Green  = "\x1b[32m"
	Yellow = "\x1b[33m"
	Cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

// Paint returns text in a colour, or text itself where w is no terminal or the environment asks for no colours.
func Paint(w io.Writer, colour, text string) string {
	if !Is(w) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return colour + text + reset
}
