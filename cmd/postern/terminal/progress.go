package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Progress shows on a terminal how much of some files has been read. Elsewhere it prints nothing. StartProgress starts its goroutine
// and Stop ends it.
type Progress struct {
	Bytes   atomic.Int64 // read so far
	Records atomic.Int64 // found in them so far; 0 where they are not counted

	total int64 // bytes; 0 where that is not known
	quit  chan struct{}
	ended sync.WaitGroup
}

// StartProgress begins to show progress on w, after half a second. total is the number of bytes to read, or 0 where that is not known.
func StartProgress(w io.Writer, total int64) *Progress {
	p := &Progress{total: total, quit: make(chan struct{})}
	begun := time.Now()
	if !Is(w) {
		return p
	}
	p.ended.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(raw(w), "\r%s\x1b[K", p.line(time.Since(begun)))
				shown = true
			case <-p.quit:
				if shown {
					fmt.Fprint(raw(w), "\r\x1b[K")
				}
				return
			}
		}
	})
	return p
}

// Stop clears the line.
func (p *Progress) Stop() {
	close(p.quit)
	p.ended.Wait()
}

// line returns what to show when some time has passed.
func (p *Progress) line(after time.Duration) string {
	seconds := max(after.Seconds(), 0.001)
	var b strings.Builder
	done := float64(0)
	if p.total > 0 {
		const width = 24
		done = min(float64(p.Bytes.Load())/float64(p.total), 1)
		full := int(done * width)
		fmt.Fprintf(&b, "[%s%s] %3.0f%%  ", strings.Repeat("=", full), strings.Repeat(" ", width-full), 100*done)
	}
	if n := p.Records.Load(); n > 0 {
		fmt.Fprintf(&b, "%s records, %s/s", Thousands(n), Thousands(int64(float64(n)/seconds)))
	} else {
		fmt.Fprintf(&b, "%s MB, %.0f MB/s", Thousands(p.Bytes.Load()/1e6), float64(p.Bytes.Load())/1e6/seconds)
	}
	if done > 0.01 {
		fmt.Fprintf(&b, ", %v left", time.Duration(seconds/done*(1-done)*float64(time.Second)).Round(time.Second))
	}
	return b.String()
}

// Thousands returns n with its digits in groups, as in 1,234,567.
func Thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Open opens a file and counts what is read from it. The name "-" stands for stdin, which is not closed.
func (p *Progress) Open(name string, stdin io.Reader) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(countingReader{stdin, &p.Bytes}), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{countingReader{f, &p.Bytes}, f}, nil
}

// countingReader adds to n what is read from r.
type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TotalSize returns the size of files in bytes, or 0 where one of the names is "-".
func TotalSize(names []string) (total int64, err error) {
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

// Counter shows on a terminal how many of some things are done, once that takes longer than half a second. Several goroutines may use it.
type Counter struct {
	w    io.Writer // nil: nothing is shown
	what string
	all  int
	next time.Time // when to show the number again

	mu    sync.Mutex
	done  int
	shown bool
}

// NewCounter begins to count. all is the number of things, called what. It shows nothing if w is nil or no terminal.
func NewCounter(w io.Writer, all int, what string) *Counter {
	c := &Counter{what: what, all: all, next: time.Now().Add(500 * time.Millisecond)}
	if Is(w) && os.Getenv("TERM") != "dumb" {
		c.w = w
	}
	return c
}

// Done counts one more.
func (c *Counter) Done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
	if now := time.Now(); c.w != nil && now.After(c.next) {
		fmt.Fprintf(raw(c.w), "\r\x1b[K%d of %d %s", c.done, max(c.done, c.all), c.what)
		c.next, c.shown = now.Add(100*time.Millisecond), true
	}
}

// End clears the line.
func (c *Counter) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shown {
		fmt.Fprint(raw(c.w), "\r\x1b[K")
	}
}
