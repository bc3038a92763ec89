package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
)

// Bounds of a batch. A longer line is a batch of its own.
const (
	maxLines = 64
	maxBytes = 1 << 20
)

// Log is one decision log, plain or gzip-compressed.
type Log struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// Options are the options of Run. New must be set.
type Options struct {
	New *engine.Policy
	Old *engine.Policy // nil to compare with the decisions in the log

	Stages       []engine.Stage // only these; none for all
	Since, Until time.Time      // zero for no bound; Until is excluded
	Sample       uint64         // replay one transaction in so many, chosen by its id; 0 and 1 for all

	Approvals     Approvals
	ApprovalsFile string        // the name of their file, for the summary
	Details       io.Writer     // receives every change as a line of JSON; may be nil
	Examples      int           // in each group; 0 for three
	Workers       int           // how many goroutines decide; at least one
	Records       *atomic.Int64 // counts the lines that are done; may be nil
}

// batch is consecutive lines of one log.
type batch struct {
	log     string
	reader  *decisionlog.Reader // for At
	text    []byte
	lines   []line
	results []result
	done    chan struct{} // receives a value when results are complete
}

// line is the position of a line in the text of a batch, or the error about it.
type line struct {
	from, to int
	number   int
	whole    bool
	err      error
}

// result is the result of one line.
type result struct {
	err      error // it cannot be read
	revision string
	stage    engine.Stage
	leftOut  bool
	unknown  bool
	changes  []Change
}

// Run replays the logs in their order. Its error is about a log that cannot be read, about Details, or that of the context.
func Run(whole context.Context, logs []Log, o Options) (*Summary, error) {
	ctx, cancel := context.WithCancel(whole)
	defer cancel()
	depth := 4 * max(o.Workers, 1)
	work, ordered, free := make(chan *batch, depth), make(chan *batch, depth), make(chan *batch, depth)
	for range depth {
		free <- &batch{done: make(chan struct{}, 1)}
	}
	var group sync.WaitGroup
	var readErr error // set before ordered is closed
	group.Go(func() {
		defer close(ordered)
		defer close(work)
		readErr = read(ctx, logs, free, func(b *batch) { work <- b; ordered <- b })
	})
	w := &worker{o: &o, parser: decisionlog.NewParser()}
	for range max(o.Workers, 1) {
		group.Go(func() {
			for b := range work {
				w.do(ctx, b)
				b.done <- struct{}{}
			}
		})
	}
	s := newSummary(&o)
	var writeErr error
	for b := range ordered {
		<-b.done
		if writeErr == nil {
			if writeErr = collect(s, b, &o); writeErr != nil {
				cancel()
			}
		}
		free <- b
	}
	group.Wait()
	if err := errors.Join(writeErr, readErr, whole.Err()); err != nil {
		return nil, err
	}
	s.finish(&o)
	return s, nil
}

// read cuts the logs into batches.
func read(ctx context.Context, logs []Log, free <-chan *batch, send func(*batch)) error {
	for _, log := range logs {
		if err := readLog(ctx, log, free, send); err != nil {
			return err
		}
	}
	return nil
}

func readLog(ctx context.Context, log Log, free <-chan *batch, send func(*batch)) error {
	stream, err := log.Open()
	if err != nil {
		return err
	}
	defer stream.Close()
	r, err := decisionlog.NewReader(log.Name, stream)
	if err != nil {
		return err
	}
	for more := true; more; {
		var b *batch
		select {
		case b = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.log, b.reader, b.text, b.lines = log.Name, r, b.text[:0], b.lines[:0]
		if cap(b.text) > 4*maxBytes {
			b.text = nil // do not keep the memory of one huge line
		}
		for more && len(b.lines) < maxLines && len(b.text) < maxBytes {
			text, n, whole, err := r.Next()
			if err == io.EOF {
				more = false
				break
			}
			from := len(b.text)
			b.text = append(b.text, text...)
			b.lines = append(b.lines, line{from, len(b.text), n, whole, err})
		}
		send(b)
	}
	return nil
}

// collect adds the results of a batch to the summary, and writes its changes to Details.
func collect(s *Summary, b *batch, o *Options) error {
	for i := range b.results {
		r := &b.results[i]
		if r.err != nil {
			var e *decisionlog.LineError
			if !errors.As(r.err, &e) {
				e = &decisionlog.LineError{File: b.log, Line: b.lines[i].number, Err: r.err}
			}
			s.bad(Bad{e.File, e.Line, e.Err.Error()})
			continue
		}
		s.record(r)
		if o.Details == nil {
			continue
		}
		for _, c := range r.changes {
			text, err := json.Marshal(c)
			if err != nil {
				return fmt.Errorf("details: %w", err)
			}
			if _, err := o.Details.Write(append(text, '\n')); err != nil {
				return fmt.Errorf("details: %w", err)
			}
		}
	}
	if o.Records != nil {
		o.Records.Add(int64(len(b.results)))
	}
	return nil
}

// worker decides. It has no state, so all goroutines use the same one.
type worker struct {
	o      *Options
	parser *decisionlog.Parser
}

func (w *worker) do(ctx context.Context, b *batch) {
	b.results = slices.Grow(b.results[:0], len(b.lines))
	for _, l := range b.lines {
		var r result
		if l.err != nil {
			r.err = l.err
		} else if err := w.line(ctx, b, l, &r); err != nil {
			r.err = b.reader.At(l.number, l.whole, err)
		}
		b.results = append(b.results, r)
	}
}

// line replays one decision.
func (w *worker) line(ctx context.Context, b *batch, at line, r *result) error {
	l, err := w.parser.Parse(b.text[at.from:at.to])
	if err != nil {
		return err
	}
	r.revision, r.stage = l.Revision, l.Stage
	if r.leftOut = w.leftOut(l); r.leftOut {
		return nil
	}
	head := Change{File: b.log, Line: at.number, ID: l.ID, DecisionID: l.DecisionID, Time: l.Time, Stage: l.Stage.String(), Login: l.Login, From: l.From}
	question, err := w.parser.Logged(l)
	if err != nil && !errors.Is(err, decisionlog.ErrNoInput) {
		return err
	}
	if why := w.unknown(l, question); why != "" {
		r.unknown = true
		head.Kind, head.Rule = Unknown, why
		r.changes = append(r.changes, head)
		return nil
	}
	d := w.o.New.DecideLogged(ctx, question)
	now := OutcomeOf(&d)
	var was Outcome
	if w.o.Old != nil {
		d := w.o.Old.DecideLogged(ctx, question)
		was = OutcomeOf(&d)
	} else {
		was = LoggedOutcome(l)
	}
	for _, c := range compare(&was, &now) {
		head.Kind, head.Rule, head.Was, head.Now = c.kind, c.rule, &was, &now
		r.changes = append(r.changes, head)
	}
	return nil
}

// unknown returns why a decision cannot be replayed, or "".
func (w *worker) unknown(l *decisionlog.Line, question *engine.Logged) string {
	switch {
	case question == nil:
		return "no input in the log"
	case w.o.Old == nil && l.ResultMasked():
		return "the result is masked" + shortened(l)
	}
	lacks := w.o.New.Lacks(question)
	if w.o.Old != nil {
		for _, fact := range w.o.Old.Lacks(question) {
			if !slices.Contains(lacks, fact) {
				lacks = append(lacks, fact)
			}
		}
	}
	if len(lacks) == 0 {
		return ""
	}
	return "reads " + strings.Join(lacks, ", ") + shortened(l)
}

// shortened returns what is added to a reason if the line is not whole.
func shortened(l *decisionlog.Line) string {
	if l.Shortened == nil {
		return ""
	}
	return "; the line was shortened (decision_log.max_line)"
}

// leftOut reports whether the options leave a line out.
func (w *worker) leftOut(l *decisionlog.Line) bool {
	o := w.o
	switch {
	case len(o.Stages) > 0 && !slices.Contains(o.Stages, l.Stage):
		return true
	case !o.Since.IsZero() && l.Time.Before(o.Since), !o.Until.IsZero() && !l.Time.Before(o.Until):
		return true
	case o.Sample > 1:
		h := fnv.New64a()
		io.WriteString(h, l.ID)
		// The low bits of FNV vary too little for short strings, so the high bits are mixed in.
		sum := h.Sum64()
		return (sum^sum>>29^sum>>47)%o.Sample != 0
	}
	return false
}
