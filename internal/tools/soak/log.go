package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
)

// logReader counts what the program logs, and keeps the last of it. It is the program's standard error.
type logReader struct {
	mu    sync.Mutex
	part  []byte
	last  []string
	grave []string // lines of panics and data races, and what follows
	left  int      // lines to be added to grave
	said  counts
}

func newLogReader() *logReader { return &logReader{} }

// Write implements io.Writer.
func (l *logReader) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			if len(l.part) > 1<<20 {
				l.part = nil
			}
			return len(p), nil
		}
		l.line(string(l.part[:i]))
		l.part = l.part[i+1:]
	}
}

func (l *logReader) line(line string) {
	var said struct{ Level, Msg string }
	if json.Unmarshal([]byte(line), &said) != nil {
		said.Level, said.Msg = "no JSON", "a line that is no JSON"
	}
	l.said.add(said.Level+" "+said.Msg, 1)
	for _, sign := range []string{"panic", "DATA RACE", "fatal error", "too many open files", "deadlock"} {
		if strings.Contains(line, sign) {
			l.left = 30
		}
	}
	if l.left > 0 && len(l.grave) < 300 {
		l.grave = append(l.grave, line)
		l.left--
	}
	l.last = append(l.last, line)
	if len(l.last) > 100 {
		l.last = append(l.last[:0], l.last[50:]...)
	}
}

func (l *logReader) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last[max(0, len(l.last)-20):], "\n")
}
