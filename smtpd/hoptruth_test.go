package smtpd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/smtpd/relay"
)

// fickleHop is a next hop that misbehaves at one stage of the dialogue: greeting, EHLO, MAIL, RCPT, DATA, end, RSET.
type fickleHop struct {
	addr string

	mu        sync.Mutex
	at, how   string // how: a reply with its line end, or "hang", "close", "reset", "dribble"
	committed int    // messages for which it sent 250 after their end, or was about to
}

func (h *fickleHop) set(at, how string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.how = at, how
}

// taken is the number of messages for which it has sent 250.
func (h *fickleHop) taken() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.committed
}

func startFickle(t *testing.T) *fickleHop {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &fickleHop{addr: ln.Addr().String()}
	quit := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { h.serve(c, quit) })
		}
	})
	t.Cleanup(func() { ln.Close(); close(quit); all.Wait() })
	return h
}

// answer sends a good reply, or misbehaves. It reports whether the connection goes on.
func (h *fickleHop) answer(c net.Conn, stage, good string, quit <-chan struct{}) bool {
	h.mu.Lock()
	how := good
	if h.at == stage {
		how = h.how
	}
	if stage == "end" && strings.HasPrefix(how, "2") {
		h.committed++
	}
	h.mu.Unlock()
	switch how {
	case "hang":
		<-quit
	case "dribble":
		for _, octet := range strings.Split(strings.Repeat("250-x\r\n", 10_000), "") {
			if _, err := io.WriteString(c, octet); err != nil {
				return false
			}
			time.Sleep(5 * time.Millisecond)
		}
	case "reset":
		c.(*net.TCPConn).SetLinger(0)
	case "close":
	default:
		_, err := io.WriteString(c, how)
		return err == nil
	}
	return false
}

func (h *fickleHop) serve(c net.Conn, quit <-chan struct{}) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	rd := bufio.NewReader(c)
	if !h.answer(c, "greeting", "220 hop.example\r\n", quit) {
		return
	}
	for data := false; ; {
		line, err := rd.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		good := "250 2.0.0 Ok\r\n"
		switch {
		case data && line != ".\r\n":
			continue
		case data:
			verb, good, data = "end", "250 2.0.0 Ok: taken by the hop\r\n", false
		case verb == "EHLO":
			good = "250-hop.example\r\n250-8BITMIME\r\n250 PIPELINING\r\n"
		case verb == "DATA":
			good = "354 Go on\r\n"
		}
		if !h.answer(c, verb, good, quit) {
			return
		}
		data = data || verb == "DATA" && h.good("DATA")
	}
}

func (h *fickleHop) good(stage string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at != stage || strings.HasPrefix(h.how, "354")
}

// TestClientHearsTheTruth: for every fault of a next hop at every stage, the client gets 250 for a message if and only if the
// next hop sent 250 after its end. A refusal has the words of the next hop, and the connection of the client goes on.
func TestClientHearsTheTruth(t *testing.T) {
	t.Parallel()
	const broke, unreached = "451 4.4.2 ", "451 4.4.1 "
	hows := map[string]string{ // how, and the reply to the client; "": as below
		"550 5.7.1 No, by the hop\r\n": "550 5.7.1 No, by the hop", "450 4.7.1 Later, by the hop\r\n": "450 4.7.1 Later, by the hop",
		"550-5.7.1 No,\r\n550 5.7.1 twice\r\n": "550 5.7.1 No, | twice", "421 4.3.2 Going down\r\n": "451 4.3.2 Going down",
		"hang": "", "close": "", "reset": "", "dribble": "", "what\r\n": "", "250 Ok\n": "", "299\r\n354 x\r\n": "", "\x00\x00\r\n": "",
	}
	for _, stage := range []string{"greeting", "EHLO", "MAIL", "RCPT", "DATA", "end"} {
		for how, words := range hows {
			t.Run(fmt.Sprintf("%s %.12q", stage, how), func(t *testing.T) {
				t.Parallel()
				hop := startFickle(t)
				out, err := relay.Open(relay.Options{Timeouts: relay.Timeouts{Greeting: 400 * time.Millisecond, Command: 400 * time.Millisecond, Final: 400 * time.Millisecond}}, "smtp://"+hop.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				s := start(t, func(s *Server, _ *Listener) { s.Relay = out })
				want := words
				if stage == "greeting" || stage == "EHLO" {
					want = unreached
				} else if want == "" {
					want = broke
				}
				hop.set(stage, how)
				c := s.talk(hello + "C: MAIL FROM:<alice@example.com>\nS: 250\nC: RCPT TO:<bob@example.net>")
				if stage == "DATA" || stage == "end" {
					c.talk("S: 250\nC: DATA\nS: 354\nW: \"From: alice@example.com\\r\\n\\r\\none\\r\\n.\\r\\n\"")
				}
				switch {
				case strings.HasPrefix(how, "299") && (stage == "RCPT" || stage == "end"): // a good reply and one reply too many
					want = "2"
				case stage == "EHLO" && strings.HasPrefix(how, "55"): // then the client tries HELO
					want = "2"
				case strings.HasPrefix(how, "299") && stage == "MAIL": // the second reply is taken for the reply to RCPT
					want = broke
				}
				c.talk("S: " + want)
				hop.set("", "")
				before := hop.taken()
				c.talk("C: RSET\nS: 250" + envelope + "C: DATA\nS: 354\nW: \"From: alice@example.com\\r\\n\\r\\ntwo\\r\\n.\\r\\n\"\nS: 250 2.0.0 Ok: taken by the hop" + quit)
				if n := hop.taken(); n != before+1 {
					t.Errorf("the next hop has %d messages, after %d", n, before)
				}
				if (before > 0) != (stage == "end" && strings.HasPrefix(how, "2")) {
					t.Errorf("the next hop took %d messages at first", before)
				}
			})
		}
	}
}
