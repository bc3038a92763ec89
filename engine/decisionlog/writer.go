package decisionlog

import (
	"errors"
	"fmt"
	"time"
)

// How often the writer looks after its file where nothing else makes it.
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
	waiting []chan error // of the lines in buf that somebody waits for
	lines   int          // in buf
	failing error        // of the last write

	checked time.Time // when the name was last held against the file
	rotate  time.Time // not before, after a failure
}

// run until the queue is closed and empty.
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

// collect encodes e and what else is ready. When nobody waits it lets a few more come, which saves waking up and writing
// for each.
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

// encode one line into buf. A line that cannot be encoded is lost, and its waiter told.
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

// flush writes buf, tells those who wait, and hands the lines on for upload. What a strict Record was refused is not
// uploaded: that decision was not carried out.
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
		w.buf = nil // one huge header must not stay for ever
	}
}

// report counts lines that err lost, and tells of the first and of the end of a series of failures.
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

// write buf to the file that has the name now, a new one where this one is full.
func (w *writer) write() error {
	now := time.Now()
	if w.log.o.Strict || now.Sub(w.checked) >= checkEvery {
		w.checked = now
		if err := w.follow(); err != nil {
			return err
		}
	}
	if limit := w.log.o.Rotate.Size; limit > 0 && w.file.regular && w.file.size > 0 && w.file.size+int64(len(w.buf)) > limit && now.After(w.rotate) {
		w.turn(now)
	}
	if err := w.file.write(w.buf); err != nil {
		return err
	}
	if w.log.o.Sync == SyncEach {
		return w.file.sync()
	}
	return nil
}

// follow opens the name anew where it is no more our file. That failing, the old file serves as long as it has any name:
// somebody may still read it.
func (w *writer) follow() error {
	if !w.file.gone() {
		return nil
	}
	if err := w.renew(); err != nil && w.file.unlinked() {
		return err
	}
	return nil
}

// turn rotates. A failure costs no line: the file only grows, and it is tried again after a while.
func (w *writer) turn(now time.Time) {
	var next *file
	var err error
	if w.file.gone() { // somebody has rotated for us; what has the name now is not ours to rename
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

// renew opens the name anew.
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
