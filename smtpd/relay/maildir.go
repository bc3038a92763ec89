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

// Maildir is a Hop that keeps each message as one file in a Maildir (tmp, new, cur; mode 0700, files 0600). Data
// returns 250 when the file and its name are on disk (fsync of both). The file is the message as it would have been sent, CRLF line
// ends and all, below fields that hold the envelope, so that whatever picks it up can send it on:
//
//	Return-Path: <sender>
//	X-Envelope-Params: BODY=8BITMIME RET=HDRS      (where MAIL had any)
//	X-Envelope-To: <recipient> NOTIFY=NEVER        (one a recipient, with RCPT's parameters)
//
// They name every recipient, Bcc included: the directory is for the operator's eyes. A full disk gives 452 4.3.1, any other
// error 451 4.3.0; what had been written is removed. A file that stays in tmp because the program was killed is no message; it is removed
// when it is 36 hours old.
type Maildir struct {
	dir  string
	o    Options
	fs   fileSystem
	host string
	n    atomic.Uint64
	new  dirSync

	tidied atomic.Int64 // Unix time at which tmp is to be tidied next

	blocks sync.Pool // *[]byte, blockSize
}

// NewMaildir makes the directories where they are missing. Of o it uses Log, Metrics and Now.
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
	// A crash must not take a new directory away with all that was stored below it. One whose parent we may write to but not read
	// cannot be synced.
	for _, dir := range missing {
		if err := m.fs.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return m.fs.SyncDir(m.dir)
}

// missingDirs are dir and those above it that are not there.
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

// Begin opens a transaction; it keeps the envelope.
func (m *Maildir) Begin(_ context.Context, env Envelope) (Tx, error) {
	tx := &maildirTx{m: m, env: env, began: time.Now()}
	if no := checkPath(env.From.String()); no.code != 0 {
		return nil, &Error{Reply: no.reply(), Hop: m.String(), Stage: stageMail, over: true}
	}
	return tx, nil
}

// Close does nothing: there is nothing to close.
func (m *Maildir) Close() error { return nil }

// name is unique on this machine and, by its random part, on any that shares the directory.
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
	to    []offered
	ended bool
}

// Rcpt takes every recipient.
func (t *maildirTx) Rcpt(_ context.Context, to message.Path, params message.Params) error {
	if t.ended {
		return &Error{Reply: local(), Hop: t.m.String(), Stage: stageRcpt, Cause: errEnded, over: true}
	}
	if no := checkPath(to.String()); no.code != 0 {
		return &Error{Reply: no.reply(), Hop: t.m.String(), Stage: stageRcpt}
	}
	t.to = append(t.to, offered{to, params})
	return nil
}

// Abort gives up.
func (t *maildirTx) Abort() { t.ended = true }

// Data stores the message.
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
	t.m.o.Metrics.done(t.m.String(), "delivered", time.Since(t.began))
	t.m.o.Log.Debug("stored", "id", t.env.ID, "hop", t.m.String(), "file", name)
	return message.MustReply(250, "2.0.0", "Ok: stored"), nil
}

// error sorts err: whose fault it is decides about the reply and whether another hop may be tried.
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
	result := "refused"
	if e.Uncertain {
		result = "uncertain"
	}
	t.m.o.Metrics.done(e.Hop, result, time.Since(t.began))
	return e
}

// envelope is the block of fields that goes on top.
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

// paramText writes the parameters that a next hop would have got, each after a space. A value that is not clean is left out.
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
