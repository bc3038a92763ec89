package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
)

// logReader counts the program's log messages and keeps the last lines. The program writes to it as standard error.
type logReader struct {
	mu       sync.Mutex
	part     []byte
	last     []string
	grave    []string // lines of panics and data races, with the lines after them
	left     int      // number of lines still to add to grave
	messages counts
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
	var entry struct{ Level, Msg string }
	if json.Unmarshal([]byte(line), &entry) != nil {
		entry.Level, entry.Msg = "no JSON", "a line that is not JSON"
	}
	l.messages.add(entry.Level+" "+entry.Msg, 1)
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
