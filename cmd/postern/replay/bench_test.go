//go:build unix

package replay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/policies"
)

// BenchmarkReplay is one worker: messages of 25 header fields and 10 recipients through the default bundle with 10,000
// senders, against what was logged. records/cpu-s counts the time that all threads of the process were at work, so that it
// says the same on a busy machine.
func BenchmarkReplay(b *testing.B) {
	p := defaultPolicy(b)
	line := decided(b, p, typical(b, engine.StageMessage))
	const n = 500
	log := []Log{logOf("log", bytes.Repeat(line, n))}
	b.SetBytes(int64(n * len(line)))
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		s, err := Run(context.Background(), log, Options{New: p, Workers: 1})
		if err != nil || s.Same != n {
			b.Fatalf("%v %+v", err, s)
		}
	}
	b.ReportMetric(float64(n*b.N)/(cpuTime(b)-before).Seconds(), "records/cpu-s")
}

// BenchmarkReplayMillion is a log of a million records, whole transactions of MAIL, RCPT and message, on all cores; memory is
// all that the process took from the system. It takes minutes: give -benchtime 1x.
func BenchmarkReplayMillion(b *testing.B) {
	p := defaultPolicy(b)
	var lines []byte
	for s := engine.StageMail; s <= engine.StageMessage; s++ {
		lines = append(lines, decided(b, p, typical(b, s))...)
	}
	n := 999_999
	if testing.Short() {
		n = 999
	}
	before := cpuTime(b)
	for b.Loop() {
		log := Log{Name: "log", Open: func() (io.ReadCloser, error) { return io.NopCloser(&again{text: lines, times: n / 3}), nil }}
		s, err := Run(context.Background(), []Log{log}, Options{New: p, Workers: runtime.GOMAXPROCS(0)})
		if err != nil || s.Same != n {
			b.Fatalf("%v %+v", err, s)
		}
	}
	b.ReportMetric(float64(n*b.N)/(cpuTime(b)-before).Seconds(), "records/cpu-s")
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "records/s")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/1e6, "MB")
}

// again reads a text so many times.
type again struct {
	text  []byte
	times int
	at    int
}

func (a *again) Read(b []byte) (int, error) {
	if a.times == 0 {
		return 0, io.EOF
	}
	n := copy(b, a.text[a.at:])
	if a.at += n; a.at == len(a.text) {
		a.at = 0
		a.times--
	}
	return n, nil
}

// cpuTime of the process so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// decided is the log line of a decision.
func decided(t testing.TB, p *engine.Policy, tr *engine.Transaction) []byte {
	t.Helper()
	l := &logger{}
	e := engine.Engine{Recorder: l}
	e.Swap(p)
	e.Decide(context.Background(), tr)
	return l.Bytes()
}

func defaultPolicy(t testing.TB) *engine.Policy {
	t.Helper()
	c, err := bundles.Load(context.Background(), bundles.FS(policies.FS, "default bundle"))
	if err != nil {
		t.Fatal(err)
	}
	senders := map[string]any{}
	for i := range 10_000 {
		senders[fmt.Sprint("user", i)] = []any{fmt.Sprintf("user%d@example.com", i)}
	}
	b := *c.Bundle
	b.Data = map[string]any{"senders": senders, "groups": map[string]any{}, "settings": map[string]any{"domain": "example.com"}}
	p, err := engine.Compile(context.Background(), &b, engine.Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// typical is a stage of a message of user 7.
func typical(t testing.TB, s engine.Stage) *engine.Transaction {
	t.Helper()
	var h strings.Builder
	h.WriteString("From: user7@example.com\r\nTo: r0@example.net, r1@example.net, r2@example.net\r\nCc: r4@example.net\r\nSubject: minutes\r\n")
	for i := range 21 {
		fmt.Fprintf(&h, "X-Header-%d: value of header field number %d\r\n", i, i)
	}
	header, err := message.ParseHeader([]byte(h.String()+"\r\n"), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	tr := question(t, int(s-engine.StageMail))
	tr.Auth.Login = "user7"
	tr.Envelope.From.Local = "user7"
	if s != engine.StageMessage {
		return tr
	}
	tr.Envelope.To = nil
	for i := range 10 {
		tr.Envelope.To = append(tr.Envelope.To, engine.Recipient{Path: message.Path{Mailbox: message.Mailbox{Local: fmt.Sprint("r", i), Domain: "example.net"}}})
	}
	tr.Message.Header = header
	return tr
}
