package kill

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// usualKills is how often TestKilled kills each of its servers if nothing else is asked for.
const usualKills = 6

// kills is how often a server is killed: POSTERN_KILLS, or usual without it.
func kills(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("POSTERN_KILLS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("POSTERN_KILLS=%s: want a number", text)
	}
	return n
}

// TestKilled kills the program with SIGKILL at random moments, at its start and under load, and starts it again in the same
// directories. Every message that was answered 250 is at the next hop or in the Maildir, complete and with its recipients. It is
// there once, or once more for each time that its client got no reply and sent it again. Nothing else is there.
func TestKilled(t *testing.T) {
	t.Parallel()
	hopRefuses := func(text string) bool { return strings.Contains(text, "\r\nSubject: hop-refuses\r\n") }
	for name, hop := range map[string]func(*testing.T, *killLedger) (relay string, between func(dir string) error){
		"smtp": func(t *testing.T, l *killLedger) (string, func(string) error) {
			return startKillHop(t, false, hopRefuses, l.arrived).url, func(string) error { return nil }
		},
		"lmtp": func(t *testing.T, l *killLedger) (string, func(string) error) {
			return startKillHop(t, true, hopRefuses, l.arrived).url, func(string) error { return nil }
		},
		"maildir": func(_ *testing.T, l *killLedger) (string, func(string) error) {
			return "maildir:outbox", func(dir string) error { return takeMaildir(filepath.Join(dir, "outbox"), l.arrived) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &killLedger{mails: map[string]*killMail{}}
			relay, between := hop(t, l)
			s := e2e.NewSite(t, relay, "decision_log: {file: decisions.jsonl, strict: true}\nlog: {format: json}\n")
			k := &killing{site: s, ledger: l, between: func() error { return between(s.Dir) }}
			k.run(t, kills(t, usualKills))
			l.check(t, name != "maildir", false)
			k.checkLog(t)
		})
	}
}

// killing is a server that is killed again and again.
type killing struct {
	site    *e2e.Site
	ledger  *killLedger
	between func() error // with the server dead
	front   string       // where clients go; "": to the server itself
	early   int          // times that it was killed before it was ready
	addr    atomic.Pointer[string]
}

// run lets clients loose, kills n times, and ends with a server that stops as it should.
func (k *killing) run(t *testing.T, n int) {
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		c := &killClient{ledger: k.ledger, stop: stop, plain: k.front != "", addr: func() string {
			if p := k.addr.Load(); p != nil {
				return *p
			}
			return ""
		}}
		clients.Go(c.run)
	}
	ended := sync.OnceFunc(func() { close(stop); clients.Wait() })
	defer ended()
	began := time.Now()
	for i := range n {
		r := k.site.Launch(t, fmt.Sprintf("serve%d.log", i))
		t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
		k.kill(t, r, i%4 == 3)
		if err := k.between(); err != nil {
			t.Fatal(err)
		}
	}
	last := k.site.Launch(t, "serve.log")
	t.Cleanup(func() { last.Stop(syscall.SIGKILL) })
	k.serve(t, last)
	k.ledger.await(20)
	ended()
	if err := last.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("at last it ended with %v", err)
	}
	if err := k.between(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed %d times in %v, %d of them before it was ready", n, time.Since(began).Round(time.Second), k.early)
}

// await waits until n more messages have been answered for good; for a while, however busy the machine is.
func (l *killLedger) await(n int64) {
	for began, until := time.Now(), l.final.Load()+n; l.final.Load() < until && time.Since(began) < 20*time.Second; {
		time.Sleep(time.Millisecond)
	}
}

func (k *killing) serve(t *testing.T, r *e2e.Process) {
	t.Helper()
	k.site.Await(t, r)
	addr := k.site.TLS
	if k.front != "" {
		addr = k.front
	}
	k.addr.Store(&addr)
}

// kill r at a random moment: under load, or, early, while it starts.
func (k *killing) kill(t *testing.T, r *e2e.Process, early bool) {
	t.Helper()
	if early {
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		if text, _ := os.ReadFile(r.Log); !bytes.Contains(text, []byte(`"msg":"ready"`)) {
			k.early++
		}
	} else {
		k.serve(t, r)
		k.ledger.await(1 + rand.Int64N(60))
		time.Sleep(time.Duration(rand.IntN(30_000)) * time.Microsecond)
	}
	r.Kill(t)
	k.addr.Store(nil)
}

// check compares what arrived with what was answered. certain means that every message whose end was sent must have been
// answered.
func (l *killLedger) check(t *testing.T, hop, certain bool) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var taken, unsure, refused, later, doubled, unasked int
	for id, m := range l.mails {
		taken, unsure, refused, later = taken+m.taken, unsure+m.unsure, refused+m.refused, later+m.later
		if m.copies > 1 {
			doubled++
		}
		if m.copies > 0 && m.taken == 0 {
			unasked++
		}
		if never := m.kind == killPolicy || m.kind == killHalf || m.kind == killHopNo && hop; never {
			if m.copies+m.taken > 0 {
				t.Errorf("%s, of kind %d, was answered 250 %d times and came %d times", id, m.kind, m.taken, m.copies)
			}
		} else if m.copies < m.taken || m.copies > m.taken+m.unsure {
			t.Errorf("%s was answered 250 %d times, not answered %d times, refused %d times, deferred %d times, and came %d times", id, m.taken, m.unsure, m.refused, m.later, m.copies)
		}
		if certain && m.unsure > 0 {
			t.Errorf("%s was not answered", id)
		}
	}
	for _, f := range l.faults {
		t.Error(f)
	}
	t.Logf("%d messages: %d answered 250, %d refused, %d deferred, %d not answered at their end; %d there without having been answered 250, %d more than once",
		len(l.mails), taken, refused, later, unsure, unasked, doubled)
	if taken < 10 || refused == 0 && len(l.mails) > 100 {
		t.Error("not what this test is for")
	}
}

// checkLog reads the decision log. The log is strict, so that every message that was answered 250 has its lines there. At most
// one line for each kill may be cut off.
func (k *killing) checkLog(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(k.site.Dir, "decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		ID, Stage string
		Input     struct{ Recipient struct{ Local string } }
		Result    struct{ Verdict string }
	}
	mailOf, accepted, cut := map[string]string{}, map[string]bool{}, 0
	for raw := range bytes.Lines(text) {
		var d line
		if json.Unmarshal(raw, &d) != nil {
			cut++
			continue
		}
		switch d.Stage {
		case "rcpt":
			mailOf[d.ID] = d.Input.Recipient.Local
		case "message":
			if d.Result.Verdict == "accept" {
				accepted[mailOf[d.ID]] = true
			}
		}
	}
	for id, m := range k.ledger.mails {
		if m.taken > 0 && !accepted[id] {
			t.Errorf("%s was answered 250, and no decision about it is in the log", id)
		}
	}
	t.Logf("%d lines of the decision log were cut off", cut)
	if cut > kills(t, usualKills) {
		t.Errorf("%d lines of the decision log cannot be read", cut)
	}
}

// seenField is what the policy of TestKilledMilter puts on top of each message that it lets through.
const seenField = "X-Seen: yes\r\n"

// TestKilledMilter is TestKilled for the milter of a real Postfix, which is not killed. Postfix answers every message, and lets
// no message pass that the milter has not decided about and edited.
func TestKilledMilter(t *testing.T) {
	t.Parallel()
	l := &killLedger{mails: map[string]*killMail{}, single: true}
	hop := startKillHop(t, false, nil, func(c killCopy) {
		if strings.Count(c.text, seenField) != 1 {
			l.fault("policy has not seen %q: %.300q", c.to, c.text)
		}
		c.text = strings.Replace(c.text, seenField, "", 1)
		l.arrived(c)
	})
	s := e2e.EmptySite(t)
	testenv.Write(t, filepath.Join(s.Dir, "policy/postern/message/p.rego"), `package postern.message

reject contains "not hers" if "not hers" in input.message.header.subject

edit contains {"op": "insert_header", "name": "X-Seen", "value": "yes", "index": 0}
`)
	socket := filepath.Join(s.Dir, "milter.sock")
	testenv.Write(t, filepath.Join(s.Dir, "postern.yaml"), "state_dir: state\nadmin: {listen: '127.0.0.1:0'}\nlog: {format: json}\n"+
		"policy: {bundle: policy, timeout: 2s}\nmilter: {listen: [{address: 'unix:"+socket+"', group: postfix}]}\n")
	p := testmilter.StartPostfix(t, testmilter.PostfixOptions{Milter: "unix:" + socket, Relay: strings.TrimPrefix(hop.url, "smtp://"),
		Main: "in_flow_delay = 0\n"})
	k := &killing{site: s, ledger: l, front: p.Addr, between: func() error { return nil }}
	k.run(t, kills(t, 2))
	for i := 0; len(p.Queue("incoming"))+len(p.Queue("active"))+len(p.Queue("deferred")) > 0; i++ {
		if i == 600 {
			t.Fatalf("Postfix keeps mail: %s", p.Log())
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.check(t, false, true)
}
