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

// Bounds of a batch. A line longer than maxOctets is a batch of its own.
const (
	maxLines  = 64
	maxOctets = 1 << 20
)

// Log is one log, plain or gzip-compressed.
type Log struct {
	Name string
	Open func() (io.ReadCloser, error)
}

// Options of Run.
type Options struct {
	New *engine.Policy
	Old *engine.Policy // nil: what the log says was decided

	Stages       []engine.Stage // none: all
	Since, Until time.Time      // zero: no bound; Until is excluded
	Sample       uint64         // one transaction in so many, chosen by its id; 0 and 1: all

	Approvals     Approvals
	ApprovalsFile string        // their name in the summary
	Details       io.Writer     // every change as a line of JSON; nil: none
	Examples      int           // of each group; 0: three
	Workers       int           // at least one
	Records       *atomic.Int64 // counts while Run runs; nil: nobody looks
}

// batch is some lines of one log, one after the other.
type batch struct {
	log     string
	reader  *decisionlog.Reader // for At
	text    []byte
	lines   []line
	results []result
	done    chan struct{} // gets one when results are complete
}

// line is where one stands in the text, or what is wrong with it.
type line struct {
	from, to int
	number   int
	whole    bool
	err      error
}

// result of one line.
type result struct {
	err      error // it cannot be read
	revision string
	stage    engine.Stage
	leftOut  bool
	unknown  bool
	changes  []Change
}

// Run replays the logs in their order. The error is about reading a log, about writing details, or ctx's.
func Run(whole context.Context, logs []Log, o Options) (*Summary, error) {
	ctx, cancel := context.WithCancel(whole)
	defer cancel()
	depth := 4 * max(o.Workers, 1)
	work, ordered, free := make(chan *batch, depth), make(chan *batch, depth), make(chan *batch, depth)
	for range depth {
		free <- &batch{done: make(chan struct{}, 1)}
	}
	var group sync.WaitGroup
	var failed error // of reading; read after ordered is closed
	group.Go(func() {
		defer close(ordered)
		defer close(work)
		failed = read(ctx, logs, free, func(b *batch) { work <- b; ordered <- b })
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
	var broken error // of writing
	for b := range ordered {
		<-b.done
		if broken == nil {
			if broken = collect(s, b, &o); broken != nil {
				cancel()
			}
		}
		free <- b
	}
	group.Wait()
	if err := errors.Join(broken, failed, whole.Err()); err != nil {
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
		if cap(b.text) > 4*maxOctets {
			b.text = nil // one huge line must not stay for ever
		}
		for more && len(b.lines) < maxLines && len(b.text) < maxOctets {
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

// collect counts what came of a batch, and writes its changes.
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

// worker decides; it has no state of its own and serves all goroutines.
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

// unknown says why a question cannot be asked again; "" where it can.
func (w *worker) unknown(l *decisionlog.Line, question *engine.Logged) string {
	switch {
	case question == nil:
		return "no input in the log"
	case w.o.Old == nil && l.ResultMasked():
		return "the result is masked"
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
	return "reads " + strings.Join(lacks, ", ")
}

// leftOut by a filter.
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
		// FNV's low bits are poor on short strings; fold the high ones in.
		sum := h.Sum64()
		return (sum^sum>>29^sum>>47)%o.Sample != 0
	}
	return false
}
