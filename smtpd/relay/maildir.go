package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Maildir is a Hop that keeps each message as one file in a Maildir (tmp, new, cur; mode 0700, files 0600). Data returns 250
// when the file and its name are on disk (fsync of both). The file is the message as it would be sent, with CRLF line ends,
// below fields that hold the envelope, so that another program can send it on:
//
//	Return-Path: <sender>
//	X-Envelope-Params: BODY=8BITMIME RET=HDRS      (if MAIL had any)
//	X-Envelope-To: <recipient> NOTIFY=NEVER        (one for each recipient, with RCPT's parameters)
//
// They name every recipient, Bcc included, so only the operator should have access to the directory. A full disk gives
// 452 4.3.1, any other error 451 4.3.0; the part that was written is removed. If the program is killed, an incomplete file may
// stay in tmp; it is removed when it is 36 hours old.
type Maildir struct {
	dir  string
	o    Options
	fs   fileSystem
	host string
	n    atomic.Uint64
	new  dirSync

	tidied atomic.Int64 // Unix time of the next tidy

	blocks sync.Pool // *[]byte, blockSize
}

// NewMaildir makes the directories that are missing. Of o it uses Log, Metrics and Now.
func NewMaildir(path string, o Options) (*Maildir, error) {
	return newMaildir(path, o, osFS{})
}

func newMaildir(path string, o Options, fsys fileSystem) (*Maildir, error) {
	if path == "" || strings.Contains(path, "\x00") {
		return nil, errors.New("want maildir:path")
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	// "/" and ":" have a meaning in Maildir names.
	host = strings.NewReplacer("/", "\\057", ":", "\\072").Replace(host)
	m := &Maildir{dir: path, o: o.withDefaults(), fs: fsys, host: host}
	m.new.fs, m.new.dir = fsys, m.path("new", "")
	m.blocks.New = newBlock
	if err := m.mkdirs(); err != nil {
		return nil, err
	}
	m.tidy()
	return m, nil
}

func (m *Maildir) path(sub, name string) string { return filepath.Join(m.dir, sub, name) }

func (m *Maildir) mkdirs() error {
	missing := missingDirs(m.dir)
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := m.fs.MkdirAll(m.path(sub, "")); err != nil {
			return err
		}
	}
	// Without these fsyncs a crash could lose a new directory with all messages in it. A parent that may be written to but not
	// read cannot be synced.
	for _, dir := range missing {
		if err := m.fs.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return m.fs.SyncDir(m.dir)
}

// missingDirs lists dir and its parents that do not exist.
func missingDirs(dir string) (missing []string) {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return missing
		}
		missing = append(missing, dir)
	}
}

// String is the target.
func (m *Maildir) String() string { return "maildir:" + m.dir }

// Begin implements Hop.
func (m *Maildir) Begin(_ context.Context, env Envelope) (Tx, error) {
	tx := &maildirTx{m: m, env: env, began: time.Now()}
	if no := checkPath(env.From.String()); no.code != 0 {
		return nil, &Error{Reply: no.reply(), Hop: m.String(), Stage: stageMail, over: true}
	}
	return tx, nil
}

// Close implements Hop. There is nothing to close.
func (m *Maildir) Close() error { return nil }

// name makes a file name. It is unique on this machine and, by its random part, on others that share the directory.
func (m *Maildir) name() string {
	var r [8]byte
	rand.Read(r[:])
	now := m.o.Now()
	return fmt.Sprintf("%d.M%06dP%dQ%dR%s.%s", now.Unix(), now.Nanosecond()/1000, os.Getpid(), m.n.Add(1), hex.EncodeToString(r[:]), m.host)
}

type maildirTx struct {
	m     *Maildir
	env   Envelope
	began time.Time
	to    []recipient
	ended bool
}

// Rcpt implements Tx. It accepts every recipient.
func (t *maildirTx) Rcpt(_ context.Context, to message.Path, params message.Params) error {
	if t.ended {
		return &Error{Reply: local(), Hop: t.m.String(), Stage: stageRcpt, Cause: errEnded, over: true}
	}
	if no := checkPath(to.String()); no.code != 0 {
		return &Error{Reply: no.reply(), Hop: t.m.String(), Stage: stageRcpt}
	}
	t.to = append(t.to, recipient{to, params})
	return nil
}

// Abort implements Tx.
func (t *maildirTx) Abort() { t.ended = true }

// Data implements Tx.
func (t *maildirTx) Data(ctx context.Context, size int64, body func() io.Reader) (message.Reply, error) {
	if t.ended {
		return message.Reply{}, &Error{Reply: local(), Hop: t.m.String(), Stage: stageData, Cause: errEnded, over: true}
	}
	t.ended = true
	if len(t.to) == 0 {
		return message.Reply{}, noRecipients(t.m.String())
	}
	name, err := t.m.store(ctx, t.envelope(), size, body())
	if err != nil {
		return message.Reply{}, t.error(err)
	}
	t.m.o.Metrics.done(t.m.String(), resultDelivered, time.Since(t.began))
	t.m.o.Log.Debug("stored", "id", t.env.ID, "hop", t.m.String(), "file", name)
	return message.MustReply(250, "2.0.0", "Ok: stored"), nil
}

// error makes the *Error for err. The cause decides the reply and whether another hop may be tried.
func (t *maildirTx) error(err error) *Error {
	e := &Error{Reply: local(), Hop: t.m.String(), Stage: stageData, Cause: err, over: true, next: true}
	var left *leftError
	var source *sourceError
	switch {
	case errors.Is(err, errLineEnd):
		e.Reply, e.next = message.MustReply(554, "5.6.0", "The message has a line end that is not CRLF"), false
	case errors.As(err, &source):
		e.next = false
	case errors.As(err, &left):
		e.Uncertain, e.Stage, e.next = true, stageEnd, false
		t.m.o.Log.Error("a message is in the directory although its sender is told to try again", "id", t.env.ID,
			"hop", e.Hop, "file", left.name, "error", err)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		e.Reply = message.MustReply(452, "4.3.1", "Insufficient storage, try again later")
	}
	result := resultRefused
	if e.Uncertain {
		result = resultUncertain
	}
	t.m.o.Metrics.done(e.Hop, result, time.Since(t.began))
	return e
}

// envelope is the block of fields on top of the message.
func (t *maildirTx) envelope() []byte {
	b := append([]byte("Return-Path: "), t.env.From.String()...)
	b = append(b, "\r\n"...)
	if p := paramText(t.env.Params, "BODY", "SMTPUTF8", "RET", "ENVID"); p != "" {
		b = append(append(append(b, "X-Envelope-Params:"...), p...), "\r\n"...)
	}
	for _, r := range t.to {
		b = append(append(b, "X-Envelope-To: "...), r.path.String()...)
		b = append(append(b, paramText(r.params, "NOTIFY", "ORCPT")...), "\r\n"...)
	}
	return b
}

// paramText writes the parameters that a next hop would get, each after a space. A value that is not clean is left out.
func paramText(p message.Params, names ...string) string {
	var b strings.Builder
	for _, n := range names {
		v, ok := p[n]
		switch {
		case !ok || !checkText(v) || len(v) > 500:
		case v == "":
			b.WriteString(" " + n)
		default:
			b.WriteString(" " + n + "=" + v)
		}
	}
	return b.String()
}

// fileSystem is what a Maildir needs of the disk. Tests use one that fails.
type fileSystem interface {
	MkdirAll(path string) error           // mode 0700
	Create(path string) (diskFile, error) // a new file, mode 0600; an error if it exists
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(path string) error // fsync of a directory
}

type diskFile interface {
	io.WriteCloser
	Sync() error
}

type osFS struct{}

func (osFS) MkdirAll(path string) error { return os.MkdirAll(path, 0o700) }

func (osFS) Create(path string) (diskFile, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(path string) error     { return os.Remove(path) }

func (osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// leftError says that the message has its final name, and could neither be synced nor removed.
type leftError struct {
	name string
	err  error
}

func (e *leftError) Error() string { return e.name + ": " + e.err.Error() }
func (e *leftError) Unwrap() error { return e.err }

// store writes one message: file in tmp, fsync, rename into new, fsync of new. After a crash at any moment the message is
// either complete in new or not in new at all.
func (m *Maildir) store(ctx context.Context, envelope []byte, size int64, body io.Reader) (string, error) {
	m.tidy()
	name := m.name()
	tmp, final := m.path("tmp", name), m.path("new", name)
	f, err := m.fs.Create(tmp)
	if errors.Is(err, fs.ErrNotExist) { // the directories were removed
		if err = m.mkdirs(); err == nil {
			f, err = m.fs.Create(tmp)
		}
	}
	if err != nil {
		return "", err
	}
	err = m.fill(f, envelope, size, body)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = m.fs.Rename(tmp, final)
		if errors.Is(err, fs.ErrNotExist) { // new was removed, and tmp was not
			if err = m.mkdirs(); err == nil {
				err = m.fs.Rename(tmp, final)
			}
		}
	}
	if err != nil {
		if rm := m.fs.Remove(tmp); rm != nil {
			m.o.Log.Warn("a temporary file could not be removed; remove it by hand", "file", tmp, "error", rm)
		}
		return "", err
	}
	if err := m.new.sync(); err != nil {
		if rm := m.fs.Remove(final); rm != nil {
			return "", &leftError{final, errors.Join(err, rm)}
		}
		return "", err
	}
	return name, nil
}

func (m *Maildir) fill(f io.Writer, envelope []byte, size int64, body io.Reader) error {
	block := m.blocks.Get().(*[]byte)
	defer m.blocks.Put(block)
	var failed error
	w := blockWriter{buf: append((*block)[:0], envelope...), flush: func(b []byte) error {
		_, failed = f.Write(b)
		return failed
	}}
	_, err := io.Copy(&w, body)
	switch {
	case failed != nil || errors.Is(err, errLineEnd):
		return err
	case err != nil:
		return &sourceError{err}
	case size >= 0 && w.n != size:
		return &sourceError{fmt.Errorf("it has %d octets and should have %d", w.n, size)}
	}
	last, err := w.end()
	if err != nil {
		return err
	}
	_, err = f.Write(last)
	return err
}

// dirSync shares the fsync of a directory. Calls that come while one is running wait for the next, which serves all of them.
type dirSync struct {
	fs  fileSystem
	dir string

	mu      sync.Mutex
	waiting *syncRound // not begun yet

	running sync.Mutex // held during an fsync
}

type syncRound struct {
	done bool // guarded by running
	err  error
}

func (d *dirSync) sync() error {
	d.mu.Lock()
	if d.waiting == nil {
		d.waiting = &syncRound{}
	}
	r := d.waiting
	d.mu.Unlock()

	d.running.Lock()
	defer d.running.Unlock()
	if !r.done {
		d.mu.Lock()
		d.waiting = nil // a call from here on may have renamed too late for this fsync
		d.mu.Unlock()
		r.err, r.done = d.fs.SyncDir(d.dir), true
	}
	return r.err
}

// leftoverAge is the age at which a file in tmp is removed: its writer was killed before the message was complete, so its sender
// was not told that it was accepted. 36 hours is the rule of Maildir.
const leftoverAge = 36 * time.Hour

// tidy removes such files, when the Maildir is opened and then once a day, with a delivery. A file that cannot be removed stays.
func (m *Maildir) tidy() {
	now := m.o.Now()
	due := m.tidied.Load()
	if now.Unix() < due || !m.tidied.CompareAndSwap(due, now.Add(24*time.Hour).Unix()) {
		return
	}
	entries, err := os.ReadDir(m.path("tmp", ""))
	if err != nil {
		return // a delivery will report it
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || now.Sub(info.ModTime()) < leftoverAge {
			continue
		}
		file := filepath.Join(m.path("tmp", ""), e.Name())
		if err := os.Remove(file); err != nil {
			m.o.Log.Warn("an old temporary file cannot be removed", "file", file, "error", err)
			continue
		}
		m.o.Log.Info("an old temporary file was removed; the program was killed while it stored that message", "file", file, "octets", info.Size())
	}
}
