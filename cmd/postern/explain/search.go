package explain

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

	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
)

// Bounds of a search.
const (
	searchBlock = 4 << 20        // bytes read at a time
	maxHits     = 500            // decisions with one id
	searchPast  = 24 * time.Hour // the search ends at lines this much older than the oldest decision that it found
)

// hit is one decision that was found.
type hit struct {
	file string
	line *decisionlog.Line
}

// Search looks for the decisions with one id in several logs.
type Search struct {
	Bad []error // lines with the id that cannot be read
	Cut bool    // there are more decisions than the search keeps

	id     string
	stages []engine.Stage
	parser *decisionlog.Parser
	bar    *terminal.Progress
	stdin  io.Reader
	needle []byte // the id as it is written in a line
	hits   []hit
}

// NewSearch returns a search for the id of a transaction or of a decision. stages limits it to some stages; without any it looks for all.
// It reads the log "-" from stdin, and adds what it reads to bar.
func NewSearch(id string, stages []engine.Stage, bar *terminal.Progress, stdin io.Reader) *Search {
	return &Search{id: id, stages: stages, parser: decisionlog.NewParser(), bar: bar, stdin: stdin, needle: engine.AppendString(nil, id)}
}

// Found reports how many decisions were found.
func (s *Search) Found() int { return len(s.hits) }

// Run searches all logs and sorts the decisions by time.
func (s *Search) Run(ctx context.Context, logs []string) error {
	for _, name := range slices.Backward(logs) { // mostly the newest is named last
		if err := s.file(ctx, name); err != nil {
			return err
		}
	}
	slices.SortStableFunc(s.hits, func(a, b hit) int {
		return cmp.Or(a.line.Time.Compare(b.line.Time), cmp.Compare(a.line.Stage, b.line.Stage))
	})
	return nil
}

func (s *Search) file(ctx context.Context, name string) error {
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

// forward reads a log that cannot be read from its end: standard input, or a compressed file.
func (s *Search) forward(ctx context.Context, name string) error {
	stream, err := s.bar.Open(name, s.stdin)
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
			s.Bad = append(s.Bad, err)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.look(name, text)
	}
}

// backward reads a plain file from its end, block by block, and stops where the lines are too old.
func (s *Search) backward(ctx context.Context, name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var rest []byte // the first bytes of the block read before: the end of a line that begins in this one
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
		s.bar.Bytes.Add(n)
		block = append(block, rest...)
		rest = nil
		if at > 0 {
			i := bytes.IndexByte(block, '\n')
			if i < 0 {
				i = len(block) - 1 // all of it is one line so far
			}
			if rest, block = block[:i+1], block[i+1:]; len(rest) > decisionlog.MaxLine {
				s.Bad = append(s.Bad, fmt.Errorf("%s: a line is longer than %d MiB", name, decisionlog.MaxLine>>20))
				rest = nil
			}
		}
		if s.block(name, block) {
			return nil
		}
	}
	return nil
}

// block looks through whole lines, the last one first, and reports whether the search is over.
func (s *Search) block(name string, block []byte) (over bool) {
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
	return err == nil && l.Time.Before(oldest.Add(-searchPast))
}

// look adds the decision in a line to the hits if it is one that is searched for.
func (s *Search) look(name string, text []byte) {
	if !bytes.Contains(text, s.needle) {
		return
	}
	l, err := s.parser.Parse(text)
	switch {
	case err != nil:
		s.Bad = append(s.Bad, fmt.Errorf("%s: a line with %s cannot be read: %w", name, s.id, err))
		s.Bad = s.Bad[:min(len(s.Bad), 10)]
	case l.ID != s.id && l.DecisionID != s.id, len(s.stages) > 0 && !slices.Contains(s.stages, l.Stage):
	case len(s.hits) == maxHits:
		s.Cut = true
	default:
		s.hits = append(s.hits, hit{name, l})
	}
}
