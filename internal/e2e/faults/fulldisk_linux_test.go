package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// smallDisk is a file system of its own, of so many octets and files, until the test ends.
type smallDisk struct {
	t       *testing.T
	dir     string
	options string
}

func newSmallDisk(t *testing.T, dir string, kib, files int) *smallDisk {
	t.Helper()
	d := &smallDisk{t, dir, fmt.Sprintf("size=%dk,nr_inodes=%d,mode=0700", kib, files)}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, d.options); err != nil {
		t.Fatalf("a disk that is full wants to be mounted by root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill leaves room for so many octets at most, until free.
func (d *smallDisk) fill(leave int64) {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var size int64
	for err == nil {
		var n int
		n, err = f.Write(make([]byte, 4096))
		size += int64(n)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
	if err := f.Truncate(max(0, size-leave)); err != nil {
		d.t.Fatal(err)
	}
}

// fillFiles leaves no room for another file, until free.
func (d *smallDisk) fillFiles() {
	d.t.Helper()
	for i := 0; ; i++ {
		f, err := os.Create(filepath.Join(d.dir, fmt.Sprint("filler", i)))
		if errors.Is(err, syscall.ENOSPC) && i > 0 {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
		f.Close()
	}
}

func (d *smallDisk) free() {
	d.t.Helper()
	fillers, err := filepath.Glob(filepath.Join(d.dir, "filler*"))
	for _, f := range fillers {
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *smallDisk) readOnly(yes bool) {
	d.t.Helper()
	flags := uintptr(syscall.MS_REMOUNT)
	if yes {
		flags |= syscall.MS_RDONLY
	}
	if err := syscall.Mount("", d.dir, "", flags, d.options); err != nil {
		d.t.Fatal(err)
	}
}

const diskFull, diskFails = "452 4.3.1 ", "451 4.3.0 "

// TestFullDisks runs the program with its Maildir, its spool, its decision log and its own log on file systems that fill up, run
// out of files, become read-only, and have room again. The client gets a temporary refusal, and no partial file is left.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	s := e2e.NewSite(t, "maildir:mail/outbox", "decision_log: {file: decisions/log.jsonl}\nlog: {format: json}\n")
	disks := map[string]*smallDisk{}
	for _, name := range []string{"mail", "spool", "logs", "decisions"} {
		disks[name] = newSmallDisk(t, filepath.Join(s.Dir, name), 512, 40)
	}
	s.Env = []string{"TMPDIR=" + disks["spool"].dir}
	r := s.Launch(t, "logs/serve.log")
	t.Cleanup(func() { r.Stop(syscall.SIGTERM) })
	s.Await(t, r)
	x := s.Client(t)
	fullMaildir(x, disks["mail"])
	fullSpool(x, disks["spool"])
	e2e.CheckMaildir(t, filepath.Join(s.Dir, "mail/outbox"), "after the spool", 5)
	fullLogs(t, s, x, disks["logs"], disks["decisions"])
	if err := r.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v", err)
	}
	wholeLines(t, filepath.Join(s.Dir, "decisions/log.jsonl"), "fourteen")
	if text, err := os.ReadFile(r.Log); err != nil || !bytes.Contains(text, []byte(`"msg":"stopped"`)) {
		t.Errorf("after the disk was full nothing more is logged: %v", err)
	}
	fullAndStrict(t, s, disks["decisions"])
}

func fullMaildir(x *e2e.Client, mail *smallDisk) {
	x.T.Helper()
	outbox := filepath.Join(mail.dir, "outbox")
	x.Want("with room", "one", 1000, "250 ")
	mail.fill(0)
	x.Want("Maildir full", "two", 1000, diskFull)
	mail.free()
	mail.fill(20_000)
	x.Want("Maildir full in the middle", "three", 100_000, diskFull)
	e2e.CheckMaildir(x.T, outbox, "full", 1)
	x.Want("what fits is taken", "four", 1000, "250 ")
	mail.free()
	mail.fillFiles()
	x.Want("no more files", "five", 1000, diskFull)
	mail.free()
	mail.readOnly(true)
	x.Want("read-only", "six", 1000, diskFails)
	mail.readOnly(false)
	x.Want("as before", "seven", 100_000, "250 ")
	e2e.CheckMaildir(x.T, outbox, "at last", 3)
}

func fullSpool(x *e2e.Client, spool *smallDisk) {
	x.T.Helper()
	spool.fill(0)
	x.Want("spool full", "eight", 400_000, diskFull)
	x.Want("small ones need none", "nine", 1000, "250 ")
	spool.free()
	spool.fill(200_000)
	x.Want("spool full in the middle", "ten", 400_000, diskFull)
	spool.free()
	spool.readOnly(true)
	x.Want("spool read-only", "eleven", 200_000, diskFull)
	spool.readOnly(false)
	x.Want("spool as before", "twelve", 200_000, "250 ")
	if left, err := os.ReadDir(spool.dir); err != nil || len(left) != 0 {
		x.T.Errorf("%d files are left in the spool, %v", len(left), err)
	}
}

// fullLogs: what cannot be logged is counted, and the mail goes on.
func fullLogs(t *testing.T, s *e2e.Site, x *e2e.Client, logs, decisions *smallDisk) {
	t.Helper()
	logs.fill(0)
	decisions.fill(0)
	lost := `postern_decision_log_lost_total{reason="write"}`
	for i := 0; s.Metrics(t)[lost] == 0 && i < 20; i++ { // the last page may have room for a few lines
		x.Want("logs full", "thirteen", 1000, "250 ")
	}
	x.Want("logs full", "thirteen", 1000, "250 ")
	if n := s.Metrics(t)[lost]; n == 0 {
		t.Errorf("no lines of the decision log were counted as lost")
	}
	logs.free()
	decisions.free()
	x.Want("logs as before", "fourteen", 1000, "250 ")
}

// fullAndStrict starts it again with a log that must be written.
func fullAndStrict(t *testing.T, s *e2e.Site, decisions *smallDisk) {
	conf := filepath.Join(s.Dir, "postern.yaml")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Write(t, conf, strings.Replace(string(text), "log.jsonl}", "log.jsonl, strict: true, sync: each}", 1))
	s.Start(t)
	x := s.Client(t)
	x.Want("strict, with room", "fifteen", 1000, "250 ")
	decisions.fill(0)
	for i := range 20 { // the last page may have room for a few lines
		if r := x.Send("sixteen", 1000); strings.HasPrefix(r, "451 4.3.0") {
			break
		} else if i == 19 || !strings.HasPrefix(r, "250") {
			t.Errorf("strict and full: %q", r)
		}
	}
	decisions.free()
	x.Want("strict, as before", "seventeen", 1000, "250 ")
	wholeLines(t, filepath.Join(decisions.dir, "log.jsonl"), "seventeen")
}

// wholeLines wants a decision log of nothing but whole lines, one of which is about a message with that subject.
func wholeLines(t *testing.T, file, subject string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !json.Valid(line) || line[len(line)-1] != '\n' {
			t.Errorf("half a line: %.200q", line)
		}
	}
	if !bytes.Contains(text, []byte(subject)) {
		t.Errorf("%s is not in the log", subject)
	}
}

// TestNoMoreFiles lets the program run out of file descriptors. Connected clients are served or get 451, new clients wait, and
// everything works once there are file descriptors again.
func TestNoMoreFiles(t *testing.T) {
	t.Parallel()
	s := e2e.StartSite(t, "maildir:outbox", "log: {format: json}\n")
	x := s.Client(t)
	x.Want("before", "one", 1000, "250 ")
	pid := s.Process.Pid()
	limit := func(n string) {
		t.Helper()
		if out, err := exec.Command(testenv.Program(t, "util-linux", "prlimit"), "--pid", fmt.Sprint(pid), "--nofile="+n+":").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	limit("3")
	x.Want("no file for the Maildir", "two", 1000, "451 4.3.0 ")
	x.Want("no file for the spool", "three", 400_000, "452 4.3.1 ")
	var waiting []net.Conn
	for range 20 {
		c, err := net.DialTimeout("tcp", s.Addr, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	e2e.CheckMaildir(t, filepath.Join(s.Dir, "outbox"), "without files", 1)
	limit("1024")
	for _, c := range waiting {
		c.SetDeadline(time.Now().Add(time.Minute))
		if line, err := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "220") {
			t.Errorf("who had to wait hears %q, %v", line, err)
		}
		c.Close()
	}
	x.Want("after", "four", 400_000, "250 ")
	s.Client(t).Want("another client", "five", 1000, "250 ")
	e2e.CheckMaildir(t, filepath.Join(s.Dir, "outbox"), "after", 3)
}
