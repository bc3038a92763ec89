package decisionlog

import (
	"errors"
	"fmt"
	"time"
)

// How often the writer checks its file when it has nothing to write.
const (
	checkEvery  = time.Second
	rotateAgain = time.Minute // after a rotation that failed
)

// writer is the goroutine that owns the file.
type writer struct {
	log     *Log
	encoder *encoder
	file    *file // nil: upload alone
	buf     []byte
	waiting []chan error // callers that wait for lines in buf
	lines   int          // in buf
	failing error        // of the last write

	checked time.Time // when the file was last compared with its name
	rotate  time.Time // earliest next rotation after a failure
}

// run writes until the queue is closed and empty.
func (w *writer) run() {
	defer close(w.log.ended)
	var tick <-chan time.Time
	if w.file != nil && w.log.o.Sync == SyncInterval {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case e, ok := <-w.log.queue:
			if !ok {
				w.end()
				return
			}
			w.collect(e)
			w.flush()
		case <-tick:
			if err := w.file.sync(); err != nil {
				w.report(err, 0)
			}
		case answer := <-w.log.reopen:
			answer <- w.renew()
		}
	}
}

func (w *writer) end() {
	err := w.failing
	if w.file != nil {
		err = errors.Join(err, w.file.close())
	}
	w.log.endErr = err
}

// collect encodes e and the other entries that are ready. Where no caller waits, it waits a moment for more entries, which saves a
// wake-up and a write for each.
func (w *writer) collect(e *Entry) {
	w.encode(e)
	if !w.log.o.Strict {
		time.Sleep(gather)
	}
	for len(w.buf) < batch {
		select {
		case e, ok := <-w.log.queue:
			if !ok {
				return // run will see it too
			}
			w.encode(e)
		default:
			return
		}
	}
}

// encode appends one line to buf. A line that cannot be encoded is lost, and its caller gets an error.
func (w *writer) encode(e *Entry) {
	w.log.queued.Add(-int64(e.octets))
	before := len(w.buf)
	defer func() {
		if r := recover(); r != nil {
			w.buf = w.buf[:before]
			w.log.losses.add(lostEncode, 1)
			w.log.o.Logger.Error("decision log: a decision cannot be encoded", "id", e.id, "panic", r)
			if e.done != nil {
				e.done <- fmt.Errorf("decision log: encode: %v", r)
			}
		}
	}()
	w.buf = append(w.encoder.line(w.buf, e), '\n')
	w.lines++
	if e.done != nil {
		w.waiting = append(w.waiting, e.done)
	}
}

// flush writes buf, answers the waiting callers, and passes the lines on for upload. A line whose strict Record failed is not
// uploaded, because that decision was not carried out.
func (w *writer) flush() {
	if w.lines == 0 {
		return
	}
	var err error
	if w.file != nil {
		err = w.write()
		w.report(err, w.lines)
	}
	for _, done := range w.waiting {
		done <- err
	}
	if w.log.upload != nil && (err == nil || !w.log.o.Strict) {
		w.log.upload.offer(w.buf)
	}
	clear(w.waiting)
	w.waiting, w.lines, w.buf = w.waiting[:0], 0, w.buf[:0]
	if cap(w.buf) > 4*batch {
		w.buf = nil // do not keep the memory of one huge header
	}
}

// report counts the lines that were lost by err, and logs the first failure and the end of a series of failures.
func (w *writer) report(err error, lines int) {
	switch {
	case err != nil:
		w.log.losses.add(lostWrite, lines)
		if w.failing == nil {
			w.log.o.Logger.Error("decision log: cannot write; decisions are not logged", "file", w.log.o.File, "err", err)
		}
	case w.failing != nil:
		w.log.o.Logger.Info("decision log: writing again", "file", w.log.o.File, "lost", w.log.Lost())
	}
	w.failing = err
}

// write writes buf to the file that has the name now, after a rotation where that file is full.
func (w *writer) write() error {
	now := w.log.o.Now()
	if w.log.o.Strict || now.Sub(w.checked) >= checkEvery {
		w.checked = now
		if err := w.follow(); err != nil {
			return err
		}
	}
	if w.log.o.Rotate.full(w.file, len(w.buf), now) && now.After(w.rotate) {
		w.turn(now)
	}
	if w.file.size == 0 {
		w.file.begun = now
	}
	if err := w.file.write(w.buf); err != nil {
		return err
	}
	if w.log.o.Sync == SyncEach {
		return w.file.sync()
	}
	return nil
}

// follow opens the name again where it has become another file. Where that fails, the old file is used as long as it has any
// name, because it can still be read.
func (w *writer) follow() error {
	if !w.file.gone() {
		return nil
	}
	if err := w.renew(); err != nil && w.file.unlinked() {
		return err
	}
	return nil
}

// turn rotates. A failure loses no line: the file grows, and rotation is tried again later.
func (w *writer) turn(now time.Time) {
	var next *file
	var err error
	if w.file.gone() { // another program has rotated; the file that has the name now must not be renamed
		next, err = openFile(w.log.o.File)
	} else {
		next, err = w.file.rotate(now)
	}
	if err != nil {
		w.rotate = now.Add(rotateAgain)
		w.log.o.Logger.Error("decision log: cannot rotate; the file grows", "file", w.log.o.File, "err", err)
		return
	}
	if err := w.file.close(); err != nil {
		w.log.o.Logger.Error("decision log: closing the file that was rotated", "file", w.log.o.File, "err", err)
	}
	w.file = next
	w.log.archive.wake()
}

// renew opens the name again.
func (w *writer) renew() error {
	if w.file == nil {
		return nil
	}
	f, err := openFile(w.log.o.File)
	if err != nil {
		return err
	}
	err = w.file.close()
	w.file = f
	return err
}
