package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// How a next hop dies.
const (
	closes   = "close"
	resets   = "reset"
	hangs    = "hang"
	dribbles = "dribble" // it goes on to speak, an octet at a time, sooner than any time-out, and never ends
	garbage  = "garbage"
	says421  = "421"
)

var ways = []string{closes, resets, hangs, dribbles, garbage, says421}

// slow ways of dying show by the time-outs of this package.
func slow(how string) bool { return how == hangs || how == dribbles }

// die ends the connection in one of the ways. It reads on only if that can show that the client sends too much.
func (c *fakeConn) die(how string) (over bool) {
	c.hop.killed.Add(1)
	switch how {
	case resets:
		if tcp, ok := c.raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	case hangs:
		select {
		case <-c.hop.quit:
		case <-time.After(long):
		}
	case dribbles:
		c.dribble()
	case garbage:
		c.write("\r\nnonsense\r\n")
		rest, _ := io.ReadAll(c.rd)
		if len(rest) > 2*small && strings.Contains("\r\n"+string(rest), "\r\n.\r\n") {
			c.hop.note(func() { c.hop.faults = append(c.hop.faults, "an end of data after nonsense") })
		}
	case says421:
		c.write("421 4.3.2 Going down\r\n")
	}
	return true
}

// dribble is a reply that never ends, or at the start of TLS a record that never ends.
func (c *fakeConn) dribble() {
	text := strings.Repeat("250-x\r\n", 1000)
	if _, under := c.nc.(*tls.Conn); c.hop.tls != nil && !under {
		text = "\x16\x03\x03\x40\x00" + strings.Repeat("\x00", 1<<14)
	}
	for began, i := time.Now(), 0; time.Since(began) < long && i < len(text); i++ {
		if c.write(text[i : i+1]) {
			return
		}
		select {
		case <-c.hop.quit:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Outcomes of a message.
const (
	lost      = 1 << iota // an error: no recipient has it
	delivered             // the next hop has it, once
	uncertain             // an error with Uncertain
	partial               // an error with Partial: some recipients have it
)

func outcome(err error) int {
	if err == nil {
		return delivered
	}
	switch e := asError(err); {
	case e.Uncertain:
		return uncertain
	case e.Partial:
		return partial
	}
	return lost
}

// killing is a stage of the dialogue at which the next hop dies. stage is what the error must name.
type killing struct {
	at, stage string
	size      int            // of the message
	may       int            // outcomes
	but       map[string]int // other outcomes, by way
}

// A message that fits into the sockets' buffers has been sent whole before a next hop can die in the middle of it; one
// that does not has not.
const (
	small = 500
	large = 200_000
)

// killings in the order of the dialogue. 421 after the data is an answer: no recipient has the message.
var killings = []killing{
	{"connect", stageConnect, small, lost, nil},
	{"greeting", stageConnect, small, lost, nil},
	{"EHLO", stageConnect, small, lost, nil},
	{"STARTTLS", stageConnect, small, lost, nil},
	{"tls", stageConnect, small, lost, nil},
	{"AUTH", stageConnect, small, lost, nil},
	{"MAIL", stageMail, small, lost, nil},
	{"RCPT", stageRcpt, small, lost, nil},
	{"RCPT 2", stageRcpt, small, lost, nil},
	{"DATA", stageData, small, lost, nil},
	{"354", "", small, lost | uncertain, nil}, // a race between its death and our last octet
	{"354", stageData, large, lost, nil},
	{"body", stageEnd, small, uncertain, map[string]int{says421: lost, hangs: uncertain | lost, dribbles: uncertain | lost}},
	{"body", stageData, large, lost, nil},
	{"dot", stageEnd, small, uncertain, map[string]int{says421: lost}},
	{"answer", stageEnd, small, uncertain, nil},
	{"answered", stageEnd, small, delivered, map[string]int{resets: delivered | uncertain}}, // a reset may overtake the answer
}

func (k killing) outcomes(how string) int {
	if m, ok := k.but[how]; ok {
		return m
	}
	return k.may
}

// options of a client that meets its death: short times only for the steps which are to run into them, so that a busy
// machine does not make others fail. Before the end of data an earlier time-out is no other outcome.
func (k killing) options(how string) Options {
	const short = 400 * time.Millisecond
	o := Options{Timeouts: Timeouts{Connect: long, Greeting: long, Command: long, Block: long, Final: long}, Dial: smallBuffer,
		Pool: Pool{MaxIdle: -1}}
	if slow(how) {
		switch k.at {
		case "answered":
		case "dot", "answer":
			o.Timeouts.Final = short
		case "354", "body":
			o.Timeouts = Timeouts{Connect: long, Greeting: short, Command: short, Block: short, Final: short}
		default:
			o.Timeouts = Timeouts{Connect: long, Greeting: short, Command: short, Block: short, Final: long}
		}
	}
	switch k.at {
	case "STARTTLS", "tls":
		o.StartTLS, o.CAs = StartTLSRequired, testCA().pool
	case "AUTH":
		o.Login, o.Password = "postern", "secret"
	}
	return o
}

func smallBuffer(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(32 << 10)
	}
	return nc, err
}

// hop starts the next hop that dies, on every connection.
func (k killing) hop(t testing.TB, how string, under *tls.Config) *fakeHop {
	s := script{tls: under, at: func(c *fakeConn, stage string) bool {
		if stage, _, _ = strings.Cut(stage, " X"); stage != k.at {
			return false
		}
		if k.at == "dot" && c.n%2 == 0 && how != says421 { // it may be dead, and may have the message all the same
			c.commit("X"+fmt.Sprint(c.n), "")
		}
		return c.die(how)
	}}
	if k.at == "STARTTLS" || k.at == "tls" {
		s.tls = testCA().server("127.0.0.1")
	}
	return startHop(t, s)
}

const times = 100

// repeat calls f times times, many at once, each with an id of its own, and returns what it returned.
func repeat(n int, f func(id string) error) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := map[string]error{}
	next := make(chan string)
	for range 50 {
		wg.Go(func() {
			for id := range next {
				err := f(id)
				mu.Lock()
				got[id] = err
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- fmt.Sprintf("X%d", i)
	}
	close(next)
	wg.Wait()
	return got
}

// honest checks that the result reported for each message is what happened to it.
func honest(t *testing.T, got map[string]error, hops ...*fakeHop) {
	t.Helper()
	for id, err := range got {
		committed, whole := 0, 0
		for _, h := range hops {
			committed += h.committed[id]
			whole += h.whole[id]
		}
		switch out := outcome(err); {
		case whole > 1 || committed > 1:
			t.Errorf("%s was sent %d times to its end and committed %d times: %v", id, whole, committed, err)
		case out&(delivered|partial) != 0 && committed != 1:
			t.Errorf("%s is reported delivered and is not: %v", id, err)
		case out == lost && committed != 0:
			t.Errorf("%s is with the next hop, and we said: %v", id, err)
		}
	}
	for _, h := range hops {
		if len(h.faults) > 0 {
			t.Errorf("%d faults of the client, such as %q", len(h.faults), h.faults[0])
		}
	}
}

// TestKilled kills the next hop at each stage of the dialogue, in each way, a hundred times.
func TestKilled(t *testing.T) {
	testenv.NotShort(t, "many seconds")
	for _, k := range killings {
		for _, how := range ways {
			t.Run(fmt.Sprintf("%s/%d/%s", k.at, k.size, how), func(t *testing.T) {
				t.Parallel()
				a := k.hop(t, how, nil)
				h := openHop(t, k.options(how), a.url)
				got := repeat(times, func(id string) error { return send(h, id, k.size) })
				_ = h.Close()
				a.stop()
				honest(t, got, a)
				for id, err := range got {
					k.check(t, how, id, err, k.outcomes(how))
				}
				if n := a.killed.Load(); n < times && !slow(how) || n == 0 {
					t.Errorf("it died %d times", n)
				}
			})
		}
	}
}

// check compares the error with the possible outcomes. In every case the client has to try again later.
func (k killing) check(t *testing.T, how, id string, err error, may int) {
	t.Helper()
	out := outcome(err)
	if out&may == 0 {
		t.Errorf("%s: outcome %b, want one of %b: %v", id, out, may, err)
	}
	if err == nil {
		return
	}
	e := failure(t, err)
	if e.Reply.Code() != 451 {
		t.Errorf("%s: the client is told %s", id, e.Reply)
	}
	if k.stage != "" && e.Stage != k.stage && !slow(how) {
		t.Errorf("%s: failed at %s, want %s: %v", id, e.Stage, k.stage, err)
	}
}

// TestKilledUnderTLS is the same for the later stages over TLS, where the end of the connection looks different.
func TestKilledUnderTLS(t *testing.T) {
	testenv.NotShort(t, "many seconds")
	for _, k := range killings {
		if k.stage == stageConnect || k.at == "RCPT 2" {
			continue
		}
		for _, how := range ways {
			t.Run(fmt.Sprintf("%s/%d/%s", k.at, k.size, how), func(t *testing.T) {
				t.Parallel()
				a := k.hop(t, how, testCA().server("127.0.0.1"))
				h := openHop(t, k.options(how), a.url)
				got := repeat(5, func(id string) error { return send(h, id, k.size) })
				_ = h.Close()
				a.stop()
				honest(t, got, a)
				for id, err := range got {
					k.check(t, how, id, err, k.outcomes(how))
				}
			})
		}
	}
}
