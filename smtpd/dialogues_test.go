package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testpipe"
)

// deed is one act of a client. If it waits, the client waits for the replies before it goes on; otherwise it goes on in the same
// write.
type deed struct {
	act   string
	waits bool
}

func (d deed) String() string {
	if d.waits {
		return d.act
	}
	return d.act + " &"
}

// TestDialogues compares long random dialogues with the model: each reply, and what the next hop got. A difference is printed
// with the shortest dialogue that shows it. POSTERN_DIALOGUES sets the number of dialogues, POSTERN_SEED the seed.
func TestDialogues(t *testing.T) {
	t.Parallel()
	count, seed := 500, uint64(1)
	if v := os.Getenv("POSTERN_DIALOGUES"); v != "" {
		count, _ = strconv.Atoi(v)
	}
	if v := os.Getenv("POSTERN_SEED"); v != "" {
		seed, _ = strconv.ParseUint(v, 10, 64)
	}
	s := startPipe(t, wantsAuth, limits(func(l *Limits) {
		l.Errors, l.AuthFailures, l.Recipients, l.MessageBytes = modelErrors, modelFailures, modelRecipients, modelBytes
	}), func(s *Server, _ *Listener) { s.Log = nil })
	s.wait = patience
	s.hop.rcpt = func(to message.Path) error {
		if to.Local == "refused" {
			return refusedBy("rcpt", 550, "5.1.1", "No such user")
		}
		return nil
	}
	s.hop.data = func(_ context.Context, m *letter) (message.Reply, error) {
		if strings.Contains(string(m.body), "refuse: me") {
			return message.Reply{}, refusedBy("end-of-data", 550, "5.7.1", "Not this")
		}
		return message.Reply{}, nil
	}
	acts, done, letters := actNames(), 0, 0
	seen := map[string]bool{}
	for n := range count {
		deeds := generate(rand.New(rand.NewPCG(seed, uint64(n))), acts)
		took, err := s.converse(deeds)
		if err != nil {
			deeds, err = s.shrink(deeds, err)
			t.Fatalf("dialogue %d of seed %d: %v: %v", n, seed, deeds, err)
		}
		done, letters = done+len(deeds), letters+took
		for _, d := range deeds {
			seen[d.act] = true
		}
	}
	t.Logf("%d dialogues, %d commands, %d messages", count, done, letters)
	if len(seen) != len(modelActs) || letters < count/2 {
		t.Errorf("%d of %d acts were tried, %d messages got through: that shows little", len(seen), len(modelActs), letters)
	}
}

// generate makes a dialogue in which the client sends the expected command half of the time.
func generate(r *rand.Rand, acts []string) (deeds []deed) {
	m := &sessionModel{}
	for n := 0; n < 80 && !m.closed; n++ {
		act := acts[r.IntN(len(acts))]
		if r.IntN(2) == 0 {
			act = m.sensible()
		}
		// Acts that end the session are rare, so that dialogues become long.
		if try := *m; r.IntN(4) > 0 {
			if try.step(act, n); try.closed {
				act = m.sensible()
			}
		}
		m.step(act, n)
		deeds = append(deeds, deed{act, r.IntN(3) == 0})
	}
	return deeds
}

// shrink removes deeds without which the difference remains.
func (s *site) shrink(deeds []deed, why error) ([]deed, error) {
	for size := len(deeds) / 2; size > 0; {
		smaller := false
		for at := 0; at+size <= len(deeds); at++ {
			fewer := slices.Concat(deeds[:at], deeds[at+size:])
			if _, err := s.converse(fewer); err != nil {
				deeds, why, smaller = fewer, err, true
				break
			}
		}
		if !smaller {
			size /= 2
		}
	}
	return deeds, why
}

// converse runs one dialogue over a new connection, and returns the number of accepted messages.
func (s *site) converse(deeds []deed) (accepted int, err error) {
	conn, err := s.dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(s.wait))
	before := len(s.hop.got())
	m := &sessionModel{}
	x := &converser{c: &client{s.t, conn, bufio.NewReader(conn)}, raw: conn, want: []string{"220"}}
	for n, d := range deeds {
		if m.closed {
			break
		}
		secured := m.tls
		input, codes := m.step(d.act, n)
		x.input, x.want = x.input+input, append(x.want, codes...)
		if d.waits || m.tls != secured {
			if err := x.exchange(); err != nil {
				return 0, err
			}
		}
		if m.tls != secured {
			if err := x.c.handshake(); err != nil {
				return 0, fmt.Errorf("handshake: %w", err)
			}
		}
	}
	if err := x.hangUp(); err != nil {
		return 0, err
	}
	return len(m.accepted), s.compareHop(before, m.accepted)
}

// compareHop compares what the next hop has got with what it should have got.
func (s *site) compareHop(before int, want []string) error {
	for range 1000 { // the transaction ends after the connection
		s.hop.mu.Lock()
		open := s.hop.open
		s.hop.mu.Unlock()
		if open == 0 {
			break
		}
		time.Sleep(s.wait / 1000)
	}
	s.hop.ended()
	var got []string
	for _, l := range s.hop.got()[before:] {
		var to []string
		for _, r := range l.to {
			to = append(to, r.Local+"@"+r.Domain)
		}
		_, text, found := strings.Cut(string(l.body), "+0000\r\n") // the end of Received
		if !found {
			return fmt.Errorf("the next hop got %q without our Received field", l.body)
		}
		got = append(got, fmt.Sprint(l.env.From.Local, "@", l.env.From.Domain, to, text))
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("the next hop got\n%q, should have got\n%q", got, want)
	}
	return nil
}

// converser is the client's side of a dialogue.
type converser struct {
	c     *client
	raw   net.Conn
	input string   // not yet sent
	want  []string // replies that were not read yet
	said  string   // sent since replies were read last
}

// exchange sends the input and reads the replies.
func (x *converser) exchange() error {
	x.send()
	return x.hear()
}

// send may fail if the server has hung up; its replies say why.
func (x *converser) send() {
	if x.input != "" {
		x.c.write(x.input)
	}
	x.said, x.input = x.input, ""
}

func (x *converser) hear() error {
	for i, code := range x.want {
		got, err := x.c.reply()
		if err != nil || !strings.HasPrefix(got, code) {
			return fmt.Errorf("after %.500q reply %d of %v is %q (%v)", x.said, i+1, x.want, got, err)
		}
	}
	x.want = nil
	return nil
}

// hangUp sends and reads the rest, closes the sending direction, and wants the server to close too.
func (x *converser) hangUp() error {
	x.send()
	if c, ok := x.c.conn.(*tls.Conn); ok {
		c.CloseWrite()
	}
	x.raw.(*testpipe.End).CloseWrite()
	if err := x.hear(); err != nil {
		return err
	}
	rest, err := io.ReadAll(x.c.r)
	if len(rest) > 0 {
		return fmt.Errorf("after %.500q more than %v: %q (%v)", x.said, x.want, rest, err)
	}
	return nil
}
