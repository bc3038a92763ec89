package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
)

// Bounds of a search.
const (
	searchBlock = 4 << 20        // octets read at a time
	maxHits     = 500            // decisions of one id
	apart       = 24 * time.Hour // a transaction is over when the log is this much older than its oldest decision
)

// hit is one decision that was found.
type hit struct {
	file string
	line *decisionlog.Line
}

// search looks for the decisions of an id in several logs.
type search struct {
	id     string
	stages []engine.Stage
	parser *decisionlog.Parser
	bar    *progress
	stdin  io.Reader

	needle []byte // the id as it stands in a line
	hits   []hit
	bad    []error // lines with the id that cannot be read
	cut    bool
}

func newSearch(id string, stages []engine.Stage, bar *progress, stdin io.Reader) *search {
	return &search{id: id, stages: stages, parser: decisionlog.NewParser(), bar: bar, stdin: stdin, needle: engine.AppendString(nil, id)}
}

// run searches all logs and puts what is found in the order of time.
func (s *search) run(ctx context.Context, logs []string) error {
	for _, name := range slices.Backward(logs) { // the newest mostly comes last
		if err := s.file(ctx, name); err != nil {
			return err
		}
	}
	slices.SortStableFunc(s.hits, func(a, b hit) int {
		return cmp.Or(a.line.Time.Compare(b.line.Time), cmp.Compare(a.line.Stage, b.line.Stage))
	})
	return nil
}

func (s *search) file(ctx context.Context, name string) error {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		magic := make([]byte, 2)
		n, err := f.ReadAt(magic, 0)
		if err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !bytes.Equal(magic[:n], []byte{0x1f, 0x8b}) {
			return s.backward(ctx, name, f)
		}
	}
	return s.forward(ctx, name)
}

// forward reads what cannot be read from its end.
func (s *search) forward(ctx context.Context, name string) error {
	stream, err := s.bar.open(name, s.stdin)
	if err != nil {
		return err
	}
	defer stream.Close()
	r, err := decisionlog.NewReader(name, stream)
	if err != nil {
		return err
	}
	for {
		text, _, _, err := r.Next()
		var bad *decisionlog.LineError
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &bad):
			s.bad = append(s.bad, err)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.look(name, text)
	}
}

// backward reads a plain file from its end, block by block, and stops where what lies before is too old.
func (s *search) backward(ctx context.Context, name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var rest []byte // the beginning of the block behind: the end of a line that begins before it
	for at := info.Size(); at > 0; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n := min(at, searchBlock)
		at -= n
		block := make([]byte, n, n+int64(len(rest)))
		if _, err := f.ReadAt(block, at); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.bar.octets.Add(n)
		block = append(block, rest...)
		rest = nil
		if at > 0 {
			i := bytes.IndexByte(block, '\n')
			if i < 0 {
				i = len(block) - 1 // all of it is one line so far
			}
			if rest, block = block[:i+1], block[i+1:]; len(rest) > decisionlog.MaxLine {
				s.bad = append(s.bad, fmt.Errorf("%s: a line is longer than %d MiB", name, decisionlog.MaxLine>>20))
				rest = nil
			}
		}
		if s.block(name, block) {
			return nil
		}
	}
	return nil
}

// block looks through whole lines, the last one first, and says whether the search is over.
func (s *search) block(name string, block []byte) (over bool) {
	if bytes.Contains(block, s.needle) {
		for _, text := range slices.Backward(bytes.Split(block, []byte("\n"))) {
			s.look(name, text)
		}
	}
	if len(s.hits) == 0 {
		return false
	}
	oldest := s.hits[0].line.Time
	for _, h := range s.hits {
		if h.line.Time.Before(oldest) {
			oldest = h.line.Time
		}
	}
	first, _, _ := bytes.Cut(block, []byte("\n"))
	l, err := s.parser.Parse(first)
	return err == nil && l.Time.Before(oldest.Add(-apart))
}

// look at one line.
func (s *search) look(name string, text []byte) {
	if !bytes.Contains(text, s.needle) {
		return
	}
	l, err := s.parser.Parse(text)
	switch {
	case err != nil:
		s.bad = append(s.bad, fmt.Errorf("%s: a line with %s cannot be read: %w", name, s.id, err))
		s.bad = s.bad[:min(len(s.bad), 10)]
	case l.ID != s.id && l.DecisionID != s.id, len(s.stages) > 0 && !slices.Contains(s.stages, l.Stage):
	case len(s.hits) == maxHits:
		s.cut = true
	default:
		s.hits = append(s.hits, hit{name, l})
	}
}
