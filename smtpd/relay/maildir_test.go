package relay

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// filesIn returns the contents of the files in a subdirectory of a Maildir, by name.
func filesIn(t testing.TB, dir, sub string) map[string]string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, sub))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range list {
		b, err := os.ReadFile(filepath.Join(dir, sub, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(b)
	}
	return got
}

// TestMaildir: the content of the file, the order of operations on the disk, and the modes.
func TestMaildir(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "deep", "outbox")
	disk := &tracedFS{}
	m, err := newMaildir(dir, Options{}, disk)
	if err != nil {
		t.Fatal(err)
	}
	if made := strings.Join(disk.ops, ", "); made != "mkdir tmp, mkdir new, mkdir cur, syncdir deep, syncdir "+filepath.Base(root)+", syncdir outbox" {
		t.Errorf("directories were made by %s", made) // the names of the new ones must be on disk, too
	}
	disk.ops = nil
	tx, err := m.Begin(t.Context(), Envelope{From: path("<a@example.com>"), ID: "T1",
		Params: message.Params{"BODY": "8BITMIME", "RET": "HDRS", "ENVID": "x y", "AUTH": "<>", "SMTPUTF8": ""}})
	if err != nil {
		t.Fatal(err)
	}
	for to, p := range map[string]message.Params{"<b@example.net>": {"NOTIFY": "NEVER", "ORCPT": "rfc822;b@example.net", "X": "y"}} {
		if err := tx.Rcpt(t.Context(), path(to), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Rcpt(t.Context(), path(`<"c> X-Evil: yes"@example.net>`), nil); err != nil {
		t.Fatal(err)
	}
	text := letter("X1", 200_000)
	reply, err := tx.Data(t.Context(), int64(len(text)), func() io.Reader { return strings.NewReader(text) })
	if err != nil || reply.String() != "250 2.0.0 Ok: stored" {
		t.Fatal(reply, err)
	}
	want := "Return-Path: <a@example.com>\r\nX-Envelope-Params: BODY=8BITMIME SMTPUTF8 RET=HDRS\r\n" +
		"X-Envelope-To: <b@example.net> NOTIFY=NEVER ORCPT=rfc822;b@example.net\r\nX-Envelope-To: <\"c> X-Evil: yes\"@example.net>\r\n" + text
	for name, got := range filesIn(t, dir, "new") {
		if got != want {
			t.Errorf("%s has\n%.500s", name, got)
		}
		if st, err := os.Stat(filepath.Join(dir, "new", name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("file: %v, %v", st.Mode(), err)
		}
	}
	if ops := strings.Join(slices.Compact(disk.ops), ", "); ops != "create tmp, write tmp, sync tmp, close tmp, rename new, syncdir new" {
		t.Errorf("the order was %s", ops)
	}
	for _, sub := range []string{"..", ".", "tmp", "new", "cur"} {
		if st, err := os.Stat(filepath.Join(dir, sub)); err != nil || st.Mode() != fs.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", sub, st.Mode(), err)
		}
	}
}

// TestMaildirFails: after every failure of the disk the client gets an error, no file is left, and the next message is stored. If the
// message can neither be synced nor removed, the error is Uncertain.
func TestMaildirFails(t *testing.T) {
	const full, failed = "452 4.3.1 Insufficient storage, try again later", "451 4.3.0 Temporary failure, try again later"
	for _, op := range []string{"create tmp", "write tmp", "sync tmp", "close tmp", "rename new", "syncdir new"} {
		for cause, want := range map[error]string{syscall.ENOSPC: full, syscall.EDQUOT: full, syscall.EIO: failed, syscall.EROFS: failed} {
			t.Run(op+"/"+cause.Error(), func(t *testing.T) {
				dir := t.TempDir()
				disk := &tracedFS{}
				m, err := newMaildir(dir, Options{}, disk)
				if err != nil {
					t.Fatal(err)
				}
				disk.fail, disk.err = op, &fs.PathError{Op: "x", Path: "y", Err: cause}
				err = send(m, "X1", large)
				if e := wantError(t, err, stageData, want); !errors.Is(e, cause) {
					t.Errorf("cause %v", e.Cause)
				}
				if len(filesIn(t, dir, "new"))+len(filesIn(t, dir, "tmp")) != 0 {
					t.Error("something is left")
				}
				if err := send(&Failover{Hops: []Hop{m, &flaky{}}}, "X1", small); err != nil {
					t.Errorf("another next hop is not tried: %v", err)
				}
				disk.fail = ""
				if err := send(m, "X2", small); err != nil || len(filesIn(t, dir, "new")) != 1 {
					t.Errorf("the next one: %v", err)
				}
			})
		}
	}
	dir := t.TempDir()
	m, _ := newMaildir(dir, Options{}, &stuckFS{})
	if e := failure(t, send(m, "X1", small)); !e.Uncertain || e.Stage != stageEnd || len(filesIn(t, dir, "new")) != 1 {
		t.Errorf("got %+v", e)
	}
}

// TestMaildirRefuses: a message that must not be stored, or cannot be read, leaves no file.
func TestMaildirRefuses(t *testing.T) {
	dir := t.TempDir()
	m := openHop(t, Options{}, "maildir:"+dir)
	for name, tc := range map[string]struct {
		size int64
		body io.Reader
		want string
	}{
		"bare LF":    {-1, strings.NewReader("a\nb\r\n"), "554 5.6.0 The message has a line end that is not CRLF"},
		"bare CR":    {-1, strings.NewReader(letter("X1", 100_000) + "\r"), "554 5.6.0 The message has a line end that is not CRLF"},
		"short":      {100_000, strings.NewReader(plainText), "451 4.3.0 Temporary failure, try again later"},
		"unreadable": {-1, io.MultiReader(strings.NewReader(letter("X1", 100_000)), iotest.ErrReader(syscall.ENOSPC)), "451 4.3.0 Temporary failure, try again later"},
	} {
		other := &flaky{}
		tx, _ := (&Failover{Hops: []Hop{m, other}}).Begin(t.Context(), Envelope{From: path("<>")})
		if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
			t.Fatal(err)
		}
		_, err := tx.Data(t.Context(), tc.size, func() io.Reader { return tc.body })
		if e := failure(t, err); e.Reply.String() != tc.want || other.tries != 0 {
			t.Errorf("%s: %v, another next hop was tried %d times", name, err, other.tries)
		}
	}
	bad := message.Path{Mailbox: message.Mailbox{Local: "a\r\nX-Evil: yes", Domain: "example.net"}}
	if _, err := m.Begin(t.Context(), Envelope{From: bad}); err == nil {
		t.Error("a sender with a line end was taken")
	}
	tx, _ := m.Begin(t.Context(), Envelope{From: path("<>")})
	if tx.Rcpt(t.Context(), bad, nil) == nil {
		t.Error("a recipient with a line end was taken")
	}
	if len(filesIn(t, dir, "new"))+len(filesIn(t, dir, "tmp")) != 0 {
		t.Error("something is left")
	}
}

// TestMaildirConcurrent: many messages at once, with other files in the directories; each message gets its own file.
func TestMaildirConcurrent(t *testing.T) {
	dir := t.TempDir()
	m := openHop(t, Options{}, "maildir:"+dir)
	left := filepath.Join(dir, "tmp", "1.left.over")
	if err := os.WriteFile(left, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, err := range repeat(200, func(id string) error { return send(m, id, small) }) {
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	arrived := map[string]bool{}
	for _, text := range filesIn(t, dir, "new") {
		_, id, _ := strings.Cut(text, "X-Id: ")
		id, _, _ = strings.Cut(id, "\r\n")
		arrived[id] = strings.HasSuffix(text, letter(id, small))
	}
	for i := range 200 {
		if !arrived[fmt.Sprintf("X%d", i)] {
			t.Errorf("X%d is not there, or not whole", i)
		}
	}
	if tmp := filesIn(t, dir, "tmp"); len(tmp) != 1 || tmp["1.left.over"] != "x" {
		t.Errorf("tmp has %v", tmp)
	}
}

// TestMaildirAway: directories that are removed while the program runs are made again, also in the middle of deliveries. Every message
// that was reported stored is there, or was removed with them.
func TestMaildirAway(t *testing.T) {
	for _, gone := range []string{"", "tmp", "new", "cur"} {
		dir := filepath.Join(t.TempDir(), "outbox")
		m := openHop(t, Options{}, "maildir:"+dir)
		if err := os.RemoveAll(filepath.Join(dir, gone)); err != nil {
			t.Fatal(err)
		}
		if err := send(m, "X1", small); err != nil || len(filesIn(t, dir, "new")) != 1 {
			t.Errorf("without %q: %v", gone, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "outbox")
	m := openHop(t, Options{}, "maildir:"+dir)
	var n atomic.Int64
	for id, err := range repeat(200, func(id string) error {
		if n.Add(1)%20 == 0 {
			_ = os.RemoveAll(dir)
		}
		return send(m, id, small)
	}) {
		if err != nil && failure(t, err).Reply.Code() != 451 {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := send(m, "X1", small); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestMaildirTidies: a file that a killed program has left in tmp is removed when it is 36 hours old, at the next start or within a day.
// No other file is removed, also when the clock jumps.
func TestMaildirTidies(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	clock := func() time.Time { return now }
	left := func(sub, name string, age time.Duration) {
		t.Helper()
		file := filepath.Join(dir, sub, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("half"), 0o600), os.Chtimes(file, now.Add(-age), now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, names ...string) {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err != nil || !slices.Equal(got, names) {
			t.Errorf("%s: tmp has %q, want %q; %v", what, got, names, err)
		}
	}
	left("tmp", "old", 37*time.Hour)
	left("tmp", "young", 35*time.Hour)
	left("tmp", "dir/old", 1000*time.Hour)
	left("new", "old", 1000*time.Hour)
	m := openHop(t, Options{Now: clock}, "maildir:"+dir)
	want("at the start", "dir", "young")
	now = now.Add(23 * time.Hour)
	if err := send(m, "X1", small); err != nil {
		t.Error(err)
	}
	want("not yet", "dir", "young")
	now = now.Add(2 * time.Hour)
	if err := send(m, "X2", small); err != nil {
		t.Error(err)
	}
	want("a day later", "dir")
	for _, jump := range []time.Duration{-1000 * time.Hour, 2000 * time.Hour, -2000 * time.Hour} {
		now = now.Add(jump)
		if err := send(m, "X3", small); err != nil {
			t.Errorf("the clock jumps by %v: %v", jump, err)
		}
	}
	if n := len(filesIn(t, dir, "new")); n != 6 {
		t.Errorf("%d files in new", n)
	}
}
