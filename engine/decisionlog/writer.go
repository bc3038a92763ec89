package decisionlog

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// writer is the goroutine that owns the file.
type writer struct {
	log     *Log
	file    *os.File
	buf     []byte
	waiting []chan error // of the lines in buf that somebody waits for
	lines   int          // in buf
	torn    bool         // the last write may have left half a line
	failing error        // of the last write
}

// run until the queue is closed and empty.
func (w *writer) run() {
	defer close(w.log.ended)
	for {
		select {
		case e, ok := <-w.log.queue:
			if !ok {
				w.log.endErr = errors.Join(w.failing, w.file.Sync(), w.file.Close())
				return
			}
			w.collect(e)
			w.flush()
		case answer := <-w.log.reopen:
			answer <- w.renew()
		}
	}
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
			w.log.lose(1)
			w.log.o.Logger.Error("decision log: a decision cannot be encoded", "id", e.id, "panic", r)
			if e.done != nil {
				e.done <- fmt.Errorf("decision log: encode: %v", r)
			}
		}
	}()
	w.buf = append(e.AppendJSON(w.buf), '\n')
	w.lines++
	if e.done != nil {
		w.waiting = append(w.waiting, e.done)
	}
}

// flush writes buf and tells those who wait.
func (w *writer) flush() {
	if w.lines == 0 {
		return
	}
	err := w.write()
	switch {
	case err != nil:
		w.log.lose(w.lines)
		if w.failing == nil {
			w.log.o.Logger.Error("decision log: cannot write; decisions are not logged", "file", w.log.o.File, "err", err)
		}
	case w.failing != nil:
		w.log.o.Logger.Info("decision log: writing again", "file", w.log.o.File, "lost", w.log.Lost())
	}
	w.failing = err
	for _, done := range w.waiting {
		done <- err
	}
	clear(w.waiting)
	w.waiting, w.lines, w.buf = w.waiting[:0], 0, w.buf[:0]
	if cap(w.buf) > 4*batch {
		w.buf = nil // one huge body must not stay for ever
	}
}

// write in one go. After a failure the next line starts on a line of its own.
func (w *writer) write() error {
	if w.torn {
		if _, err := w.file.Write([]byte{'\n'}); err != nil {
			return fmt.Errorf("decision log: %w", err)
		}
		w.torn = false
	}
	if n, err := w.file.Write(w.buf); err != nil {
		w.torn = n > 0
		return fmt.Errorf("decision log: %w", err)
	}
	return nil
}

// renew the file.
func (w *writer) renew() error {
	f, err := openFile(w.log.o.File)
	if err != nil {
		return err
	}
	err = w.file.Close()
	w.file, w.torn = f, false
	return err
}
