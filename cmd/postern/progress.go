package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// progress shows on a terminal how far a long read of files has come. Elsewhere it is silent. Its goroutine begins in
// startProgress and ends in stop.
type progress struct {
	w       io.Writer
	total   int64        // octets; 0: not known
	octets  atomic.Int64 // read so far
	records atomic.Int64
	begun   time.Time
	quit    chan struct{}
	ended   sync.WaitGroup
}

// startProgress begins to show progress on w; nothing is shown in the first half second.
func startProgress(w io.Writer, total int64) *progress {
	p := &progress{w: w, total: total, begun: time.Now(), quit: make(chan struct{})}
	if !isTerminal(w) {
		return p
	}
	p.ended.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(w, "\r%s\x1b[K", p.line(time.Since(p.begun)))
				shown = true
			case <-p.quit:
				if shown {
					fmt.Fprint(w, "\r\x1b[K")
				}
				return
			}
		}
	})
	return p
}

// stop clears the line.
func (p *progress) stop() {
	close(p.quit)
	p.ended.Wait()
}

// line is what is shown after some time.
func (p *progress) line(after time.Duration) string {
	seconds := max(after.Seconds(), 0.001)
	var b strings.Builder
	done := float64(0)
	if p.total > 0 {
		const width = 24
		done = min(float64(p.octets.Load())/float64(p.total), 1)
		full := int(done * width)
		fmt.Fprintf(&b, "[%s%s] %3.0f%%  ", strings.Repeat("=", full), strings.Repeat(" ", width-full), 100*done)
	}
	if n := p.records.Load(); n > 0 {
		fmt.Fprintf(&b, "%s records, %s/s", thousands(n), thousands(int64(float64(n)/seconds)))
	} else {
		fmt.Fprintf(&b, "%s MB, %.0f MB/s", thousands(p.octets.Load()/1e6), float64(p.octets.Load())/1e6/seconds)
	}
	if done > 0.01 {
		fmt.Fprintf(&b, ", %v left", time.Duration(seconds/done*(1-done)*float64(time.Second)).Round(time.Second))
	}
	return b.String()
}

// thousands groups digits: 1,234,567.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// open a file whose reading counts; "-" is stdin, which is not closed.
func (p *progress) open(name string, stdin io.Reader) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(countingReader{stdin, &p.octets}), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{countingReader{f, &p.octets}, f}, nil
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// totalSize of files; 0 where one is standard input.
func totalSize(names []string) (total int64, err error) {
	for _, name := range names {
		if name == "-" {
			return 0, nil
		}
		info, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		if info.IsDir() {
			return 0, fmt.Errorf("%s is a directory; name its files", name)
		}
		total += info.Size()
	}
	return total, nil
}
