package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testmilter"
)

// script is a Session that writes down what it is asked, and answers from a table.
type script struct {
	conn    *Conn
	needs   Needs
	answers map[Verb]Answer
	enough  bool
	macros  []string // whose values are written down with each command

	mu     sync.Mutex
	events []string
	ended  bool
	reason error
}

func (s *script) write(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

func (s *script) Negotiate(Terms) Needs { return s.needs }

func (s *script) Handle(c *Command) Answer {
	text := string(rune(c.Verb))
	for _, part := range append([]string{c.Host, c.Helo, c.Path}, c.Params...) {
		if part != "" {
			text += " " + part
		}
	}
	for _, name := range s.macros {
		text += " " + name + "=" + s.conn.Macro(name)
	}
	s.write("%s", text)
	return s.answers[c.Verb]
}

func (s *script) Header(name, value string) { s.write("header %s:%s", name, value) }

func (s *script) Body(p []byte) bool { s.write("body %s", p); return s.enough }

func (s *script) End(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		panic("ended twice")
	}
	s.ended, s.reason = true, reason
}

// all is what the Session was asked, and why the connection ended.
func (s *script) all() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events), s.reason
}

// everyStage needs every answer and operation, but no body.
func everyStage() Needs {
	return Needs{Connect: true, Mail: true, Rcpt: true, Message: true, Operations: []Op{AddHeader, ChangeHeader, AddRcpt, DeleteRcpt, ChangeFrom, Quarantine}}
}

// server serves one connection after another with a Session that s describes. The channel has a Conn's Session once the
// Conn is closed.
func server(t testing.TB, s *script, change func(*Conn)) (addr string, closed <-chan *script, log *bytes.Buffer) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log = &bytes.Buffer{}
	ended := make(chan *script, 100)
	served := make(chan error, 1)
	go func() {
		served <- Serve(ln, func(socket net.Conn) *Conn {
			session := &script{needs: s.needs, answers: s.answers, enough: s.enough, macros: s.macros}
			c := &Conn{Socket: socket, Session: session, Log: slog.New(slog.NewTextHandler(log, nil)), Idle: 10 * time.Second, Frame: 10 * time.Second}
			c.Closed = func() { ended <- session }
			session.conn = c
			if change != nil {
				change(c)
			}
			return c
		})
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String(), ended, log
}

// converse sends frames and returns what was answered after the negotiation, what the Session was asked and why it ended.
func converse(t testing.TB, s *script, offer, frames string) (answers string, events []string, reason error) {
	t.Helper()
	addr, closed, _ := server(t, s, nil)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte(offer + frames)); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	out, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	events, reason = (<-closed).all()
	if len(out) > headSize && out[headSize] == 'O' {
		out = out[headSize+int(binary.BigEndian.Uint32(out)):]
	}
	return string(out), events, reason
}

func frame(verb Verb, data string) string { return testmilter.Frame(byte(verb), data) }

// version2 is an offer without protocol options: each command has an answer.
var version2 = frame(verbNegotiate, "\x00\x00\x00\x02\x00\x00\x00\x3f\x00\x00\x00\x00")

const goOn = "\x00\x00\x00\x01c"

// TestMalformed: a frame that breaks the protocol ends the connection with ErrProtocol, and nothing is accepted.
func TestMalformed(t *testing.T) {
	addr, closed, _ := server(t, &script{needs: everyStage()}, nil)
	for name, text := range testmilter.Malformed() {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = c.Write([]byte(text))
			cut := strings.HasPrefix(name, "cut")
			if cut {
				_ = c.(*net.TCPConn).CloseWrite()
			}
			if _, err := io.ReadAll(c); err != nil {
				t.Fatalf("not closed: %v", err)
			}
			events, reason := (<-closed).all()
			if errors.Is(reason, ErrProtocol) == cut || cut && !errors.Is(reason, io.ErrUnexpectedEOF) {
				t.Errorf("the connection ended with %v", reason)
			}
			if slices.Contains(events, "E") {
				t.Errorf("a message was decided: %q", events)
			}
		})
	}
}

// TestVerbs: what the Session is asked for two messages and a second client, with and without answers.
func TestVerbs(t *testing.T) {
	text := frame(Connect, testmilter.GoodConnect) + frame(Helo, "one\x00") + frame(verbUnknown, "XFOO\x00") +
		frame(Mail, "<a@example.com>\x00SIZE=1\x00BODY=8BITMIME\x00") + frame(Rcpt, "<b@example.net>\x00") + frame(verbData, "") +
		frame(verbHeader, "Subject\x00 x\x00") + frame(EndOfHeader, "") + frame(verbBody, "one") + frame(EndOfMessage, "two") +
		frame(Mail, testmilter.GoodMail) + // no ABORT before
		frame(Mail, "<c@example.com>\x00") + // the transaction before is open
		frame(Helo, "two\x00") + // ends a transaction
		frame(Mail, testmilter.GoodMail) + frame(Abort, "") + frame(Abort, "") +
		frame(Mail, testmilter.GoodMail) + frame(NewClient, "") + frame(Connect, "next\x00U") + frame(verbQuit, "")
	want := []string{"C client.example.net", "H one", "M <a@example.com> SIZE=1 BODY=8BITMIME", "R <b@example.net>", "header Subject: x", "N", "body one",
		"body two", "E", "M <a@example.com>", "A", "M <c@example.com>", "A", "H two", "M <a@example.com>", "A", "A", "M <a@example.com>", "K", "C next"}
	for name, offer := range map[string]string{"version 2": version2, "version 6": testmilter.Offer()} {
		answers, events, reason := converse(t, &script{needs: everyStage()}, offer, text)
		if !slices.Equal(events, want) || reason != nil {
			t.Errorf("%s: asked\n%q, %v; want\n%q", name, events, reason, want)
		}
		n := 9 // CONNECT 2, MAIL 5, RCPT and the end of the message
		if name == "version 2" {
			n = 16 // and HELO 2, unknown, DATA, header, end of header, body
		}
		if answers != strings.Repeat(goOn, n) {
			t.Errorf("%s: answered %q, want to go on %d times", name, answers, n)
		}
	}
}

// TestMacroScopes: which value of a macro holds, and for how long.
func TestMacroScopes(t *testing.T) {
	macros := func(stage Verb, pairs ...string) string {
		return frame(verbMacro, string(rune(stage))+strings.Join(pairs, "\x00")+"\x00")
	}
	for _, c := range []struct{ name, frames, macro, want string }{
		{"of the client, the first value", macros(Connect, "{daemon_name}", "one") + macros(EndOfHeader, "{daemon_name}", "two"), "daemon_name", "one"},
		{"of TLS, replaced by HELO", macros(Helo, "{cipher}", "one") + macros(Helo, "{cipher}", "two"), "cipher", "two"},
		{"of TLS, not replaced later", macros(Helo, "{cipher}", "one") + macros(Mail, "{cipher}", "two"), "cipher", "one"},
		{"of the client, after a message", macros(Connect, "v", "Postfix") + message1 + frame(Mail, testmilter.GoodMail), "v", "Postfix"},
		{"of the client, after the next client", macros(Connect, "v", "Postfix") + frame(NewClient, "") + frame(Mail, testmilter.GoodMail), "v", ""},
		{"of the message", macros(Mail, "{auth_authen}", "alice") + frame(Mail, testmilter.GoodMail), "auth_authen", "alice"},
		{"of the message, the first value", macros(Mail, "{auth_authen}", "alice") + frame(Mail, testmilter.GoodMail) + macros(Rcpt, "{auth_authen}", "bob"), "auth_authen", "alice"},
		{"of the message before", macros(Mail, "{auth_authen}", "alice") + message1 + frame(Mail, testmilter.GoodMail), "auth_authen", ""},
		{"of the message before, with macros of its own", macros(Mail, "{auth_authen}", "alice") + message1 + macros(Mail, "i", "Q2") + frame(Mail, testmilter.GoodMail), "auth_authen", ""},
		{"of the message, sent before MAIL", macros(Helo, "{auth_authen}", "alice") + frame(Mail, testmilter.GoodMail), "auth_authen", ""},
		{"of the message, sent with HELO", macros(Mail, "i", "Q1") + macros(Helo, "{auth_authen}", "mallory") + frame(Mail, testmilter.GoodMail), "auth_authen", ""},
		{"queue id, the last value", macros(Mail, "i", "one") + frame(Mail, testmilter.GoodMail) + macros(EndOfMessage, "i", "two"), "i", "two"},
		{"too long", macros(Connect, "v", strings.Repeat("x", maxMacroValue+1)), "v", ""},
		{"not known", macros(Connect, "{mail_addr}", "x"), "mail_addr", ""},
	} {
		last := frame(Helo, "last\x00")
		if strings.Contains(c.frames, string(frame(Mail, testmilter.GoodMail))) {
			last = frame(Rcpt, "<last@example.net>\x00")
		}
		_, events, reason := converse(t, &script{needs: everyStage(), macros: []string{c.macro}}, testmilter.Offer(), c.frames+last)
		if got := events[len(events)-1]; reason != nil || !strings.Contains(got, "last") || !strings.HasSuffix(got, " "+c.macro+"="+c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, reason, c.want)
		}
	}
}

// message1 is a whole message.
var message1 = frame(Mail, testmilter.GoodMail) + frame(Rcpt, "<b@example.net>\x00") + frame(EndOfHeader, "") + frame(EndOfMessage, "")

// TestAnswers: each kind of answer, and that a message which is not accepted is not changed.
func TestAnswers(t *testing.T) {
	ops := []Operation{{Op: InsertHeader, Index: 1, Text: []string{"X-A", "b"}}, {Op: DeleteRcpt, Text: []string{"<b@example.net>"}}}
	no := message.MustReply(550, "5.7.1", "100% no")
	yes := "\x00\x00\x00\x0bi\x00\x00\x00\x01X-A\x00b\x00" + "\x00\x00\x00\x11-<b@example.net>\x00" + goOn
	refusal := frame('y', "550 5.7.1 100%% no\x00")
	for name, c := range map[string]struct {
		answer Answer
		want   string
	}{
		"accepted": {Answer{Operations: ops}, yes}, "refused": {Answer{Reply: no}, refusal}, "discarded": {Answer{Discard: true}, frame('d', "")},
		"refused with operations": {Answer{Reply: no, Operations: ops}, refusal}, "discarded with operations": {Answer{Discard: true, Operations: ops}, frame('d', "")},
	} {
		answers, _, reason := converse(t, &script{needs: Needs{Message: true, Operations: everyStage().Operations}, answers: map[Verb]Answer{EndOfMessage: c.answer}}, testmilter.Offer(), message1)
		if answers != c.want || reason != nil {
			t.Errorf("%s: answered %q, %v; want %q", name, answers, reason, c.want)
		}
	}
}

// TestNoAnswerThatIsNotDue: an answer that the mail server does not wait for is dropped.
func TestNoAnswerThatIsNotDue(t *testing.T) {
	no := Answer{Reply: message.MustReply(550, "5.7.1", "no")}
	answers, events, reason := converse(t, &script{answers: map[Verb]Answer{Connect: no, Helo: no, Mail: no, Rcpt: no, EndOfHeader: no}}, testmilter.Offer(),
		frame(Connect, testmilter.GoodConnect)+frame(Helo, "x\x00")+message1)
	if answers != goOn || len(events) != 6 || reason != nil {
		t.Errorf("asked %q, answered %q, %v; want one answer, to end of message", events, answers, reason)
	}
}

// TestSkip: the rest of a body is declined once it is not needed, and only where that was negotiated.
func TestSkip(t *testing.T) {
	text := frame(Mail, testmilter.GoodMail) + frame(EndOfHeader, "") + frame(verbBody, "x")
	s := &script{needs: Needs{Body: true}, enough: true}
	if answers, _, _ := converse(t, s, testmilter.Offer(), text); answers != "\x00\x00\x00\x01s" {
		t.Errorf("answered %q, want skip", answers)
	}
	if answers, _, _ := converse(t, s, version2, text); answers != goOn+goOn+goOn {
		t.Errorf("version 2 was answered %q", answers)
	}
}

// TestLibraryIsHeldBack: what the library writes by itself never reaches the mail server, and ends the connection.
func TestLibraryIsHeldBack(t *testing.T) {
	ours, theirs := net.Pipe()
	log := &bytes.Buffer{}
	c := &Conn{Socket: ours, Log: slog.New(slog.NewTextHandler(log, nil)), Idle: time.Second, Frame: time.Second}
	if n, err := (&transport{Conn: ours, conn: c}).Write([]byte(goOn)); n != len(goOn) || err != nil {
		t.Errorf("the library was told %d, %v", n, err)
	}
	_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(theirs); len(b) != 0 || err != nil {
		t.Errorf("the mail server got %q, %v", b, err)
	}
	if err := c.next(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection goes on: %v", err)
	}
	if !strings.Contains(log.String(), "held back") {
		t.Errorf("logged %q", log)
	}
}

// TestCutLeavesFramesUnread: frames that came before Cut are not taken.
func TestCutLeavesFramesUnread(t *testing.T) {
	addr, closed, _ := server(t, &script{}, func(c *Conn) { c.Session = &cutter{Session: c.Session, conn: c} })
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte(testmilter.Offer() + frame(Helo, "cut\x00") + message1))
	if events, reason := (<-closed).all(); !slices.Equal(events, []string{"H cut"}) || reason != nil {
		t.Errorf("asked %q, %v", events, reason)
	}
}

// cutter cuts the connection at HELO.
type cutter struct {
	Session
	conn *Conn
}

func (c *cutter) Handle(command *Command) Answer {
	a := c.Session.Handle(command)
	if command.Verb == Helo {
		c.conn.Cut()
	}
	return a
}

// TestSilence: which limit a silent mail server exceeds. The other limit is too long to be the reason.
func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"before negotiation": {"", ErrIdle}, "between commands": {testmilter.Offer(), ErrIdle}, "in a transaction": {testmilter.Offer() + frame(Mail, testmilter.GoodMail), ErrIdle},
		"in a length": {testmilter.Offer() + "\x00\x00", ErrFrame}, "in a frame": {testmilter.Offer() + "\x00\x00\x00\x05M<", ErrFrame},
	} {
		addr, closed, _ := server(t, &script{}, func(conn *Conn) {
			conn.Idle, conn.Frame = 100*time.Millisecond, time.Minute
			if c.want == ErrFrame {
				conn.Idle, conn.Frame = conn.Frame, conn.Idle
			}
		})
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(c.text))
		select {
		case s := <-closed:
			if _, reason := s.all(); !errors.Is(reason, c.want) {
				t.Errorf("%s: ended with %v, want %v", name, reason, c.want)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: not ended", name)
		}
		_ = conn.Close()
	}
}

// TestServerThatReadsNothing: a write that the mail server does not take ends with ErrFrame.
func TestServerThatReadsNothing(t *testing.T) {
	ours, theirs := net.Pipe()
	s := &script{}
	c := &Conn{Socket: ours, Session: s, Log: slog.New(slog.DiscardHandler), Idle: time.Minute, Frame: 50 * time.Millisecond, Closed: func() {}}
	go func() { _, _ = theirs.Write([]byte(testmilter.Offer())) }()
	done := make(chan error, 1)
	go func() { done <- c.next() }()
	select {
	case err := <-done:
		c.finish(err)
		if _, reason := s.all(); !errors.Is(reason, ErrFrame) {
			t.Errorf("ended with %v", reason)
		}
	case <-time.After(20 * time.Second):
		t.Error("not ended")
	}
	_ = theirs.Close()
}

// TestDrain: a connection without a transaction ends at once, one with a transaction after it; a refused sender is no
// transaction.
func TestDrain(t *testing.T) {
	no := map[Verb]Answer{Mail: {Reply: message.MustReply(550, "5.7.1", "no")}}
	for name, c := range map[string]struct {
		text    string
		answers map[Verb]Answer
		stays   bool
	}{"idle": {"", nil, false}, "open": {frame(Mail, testmilter.GoodMail), nil, true}, "refused": {frame(Mail, testmilter.GoodMail), no, false}} {
		conns := make(chan *Conn, 1)
		addr, closed, _ := server(t, &script{needs: Needs{Mail: true}, answers: c.answers}, func(c *Conn) { conns <- c })
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write([]byte(testmilter.Offer() + c.text))
		buf := make([]byte, 4096)
		if _, err := io.ReadAtLeast(conn, buf[:], 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // the answer to MAIL
		(<-conns).Drain()
		select {
		case <-closed:
			if c.stays {
				t.Errorf("%s: ended", name)
			}
		case <-time.After(map[bool]time.Duration{true: 200 * time.Millisecond, false: 5 * time.Second}[c.stays]):
			if !c.stays {
				t.Errorf("%s: not ended", name)
			}
			_, _ = conn.Write([]byte(frame(Abort, "")))
			<-closed
		}
		_ = conn.Close()
	}
}

// TestUnwanted: a socket for which there is no Conn is closed, and the next one is served.
func TestUnwanted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(ln, func(net.Conn) *Conn { return nil }) }()
	for range 2 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		_ = c.Close()
	}
	_ = ln.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

// TestCheck: operations are allowed all or none.
func TestCheck(t *testing.T) {
	offer, err := decodeOffer([]byte("\x00\x00\x00\x06\x00\x00\x00\x01\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	add := Operation{Op: AddHeader, Text: []string{"X", "y"}}
	for _, c := range []struct {
		ops      []Operation
		withheld bool
		ok       bool
	}{
		{nil, false, true}, {[]Operation{add, add}, false, true}, {[]Operation{add, {Op: ChangeFrom, Text: []string{"<>"}}}, true, false},
		{[]Operation{add, {Op: 'x', Text: []string{""}}}, true, false}, {[]Operation{add, {Op: AddHeader, Text: []string{"X", strings.Repeat("y", maxFrame)}}}, false, false},
	} {
		if err := offer.Check(c.ops); (err == nil) != c.ok || errors.Is(err, ErrWithheld) != c.withheld {
			t.Errorf("%d operations: %v", len(c.ops), err)
		}
	}
}
