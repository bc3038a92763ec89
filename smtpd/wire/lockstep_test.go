package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testpipe"
)

// script is a Session with scripted commands.
type script struct {
	conn    *Conn
	command func(c *Conn, verb, arg string) message.Reply
	idle    func() bool // nil: always

	greeting message.Reply
	verbs    []string // carried out
	lost     error
	ended    int
}

func (s *script) Greet() message.Reply { return s.greeting }

func (s *script) Patience() (time.Duration, bool) { return time.Minute, s.idle == nil || s.idle() }

func (s *script) Command(verb, arg string) message.Reply {
	s.verbs = append(s.verbs, verb)
	return s.command(s.conn, verb, arg)
}

func (s *script) Lost(err error) message.Reply {
	s.lost = err
	if errors.Is(err, io.EOF) {
		return message.Reply{}
	}
	return message.MustReply(421, "4.3.0", "Lost")
}

func (s *script) End() { s.ended++ }

// accept is a reply to any command.
func accept(*Conn, string, string) message.Reply { return message.MustReply(250, "2.0.0", "Ok") }

// converse runs a session by way of go-smtp, with a client that sends the input, one write each, and then nothing more. It returns
// the codes of the replies.
func converse(t *testing.T, s *script, input ...string) (codes []string) {
	t.Helper()
	l := testpipe.NewListener()
	srv := NewServer(Options{Hostname: "mail.example.com", CommandLine: 512, Write: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if s.greeting.IsZero() {
		s.greeting = message.MustReply(220, "", "mail.example.com ESMTP")
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(scripted{l, srv, s}) }()
	client, err := l.Dial()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range input {
		io.WriteString(client, text)
	}
	client.(*testpipe.End).CloseWrite()
	for lines := bufio.NewScanner(client); lines.Scan(); {
		if text := lines.Text(); len(text) < 4 {
			t.Errorf("reply %q", text)
		} else if text[3] == ' ' {
			codes = append(codes, text[:3])
		}
	}
	l.Close()
	<-served
	srv.Shutdown()
	if s.ended != 1 {
		t.Errorf("End was called %d times", s.ended)
	}
	return codes
}

// scripted is a listener whose connections have a scripted session.
type scripted struct {
	*testpipe.Listener
	srv *Server
	s   *script
}

func (l scripted) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.s.conn = l.srv.NewConn(raw, l.s)
	return l.s.conn, nil
}

// sameList fails the test unless got is what want names.
func sameList(t *testing.T, what string, got []string, want string) {
	t.Helper()
	if s := strings.Join(got, " "); s != want {
		t.Errorf("%s: %s, want %s", what, s, want)
	}
}

// TestOutOfStep: a command that the session accepts and go-smtp refuses gets 421, and no command after it is carried out.
func TestOutOfStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, input, verbs, codes string }{
		{"MAIL without EHLO", "MAIL FROM:<a@b>\r\nNOOP\r\n", "MAIL", "220 421"},
		{"RCPT without MAIL", "EHLO x\r\nRCPT TO:<a@b>\r\nNOOP\r\n", "EHLO RCPT", "220 250 421"},
		{"AUTH without EHLO", "AUTH PLAIN\r\nNOOP\r\n", "AUTH", "220 421"},
		{"AUTH twice", "EHLO x\r\nAUTH PLAIN\r\nAUTH PLAIN\r\nNOOP\r\n", "EHLO AUTH AUTH", "220 250 250 421"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &script{command: accept}
			sameList(t, "codes", converse(t, s, c.input), c.codes)
			sameList(t, "verbs", s.verbs, c.verbs)
			if !errors.Is(s.lost, ErrOutOfStep) {
				t.Errorf("lost: %v", s.lost)
			}
		})
	}
	// A message without a recipient.
	open := false
	s := &script{idle: func() bool { return !open }, command: func(_ *Conn, verb, _ string) message.Reply {
		open = verb == "MAIL"
		return accept(nil, "", "")
	}}
	sameList(t, "codes", converse(t, s, "EHLO x\r\nMAIL FROM:<a@b>\r\nDATA\r\nNOOP\r\n"), "220 250 250 421")
	if !errors.Is(s.lost, ErrOutOfStep) {
		t.Errorf("lost: %v", s.lost)
	}
}

// TestRefusedMessageEndsTransaction: go-smtp has forgotten the recipients of a message that was refused. A message without
// recipients after it is out of step.
func TestRefusedMessageEndsTransaction(t *testing.T) {
	t.Parallel()
	open := false
	s := &script{idle: func() bool { return !open }, command: func(_ *Conn, verb, arg string) message.Reply {
		open = verb == "MAIL" || verb == "RCPT"
		if arg == "refused" {
			return message.MustReply(550, "5.7.1", "No")
		}
		return accept(nil, "", "")
	}}
	sameList(t, "codes", converse(t, s, "EHLO x\r\nMAIL\r\nRCPT\r\nDATA refused\r\nMAIL\r\nDATA\r\nNOOP\r\n"), "220 250 250 250 550 250 421")
	if !errors.Is(s.lost, ErrOutOfStep) {
		t.Errorf("lost: %v", s.lost)
	}
}

// TestFollowerAgreesToPlaceholdersOnly: a call of go-smtp without a placeholder for it is refused.
func TestFollowerAgreesToPlaceholdersOnly(t *testing.T) {
	t.Parallel()
	c := testConn(nil)
	f := follower{c}
	calls := map[string]func() error{
		"MAIL": func() error { return f.Mail("", nil) },
		"RCPT": func() error { return f.Rcpt("", nil) },
		"DATA": func() error { return f.Data(nil) },
		"AUTH": func() error { _, err := f.Auth("PLAIN"); return err },
	}
	for _, told := range []string{"", "MAIL", "RCPT", "DATA", "AUTH", "RSET"} {
		c.steps.told = told
		for verb, call := range calls {
			if err := call(); (err == nil) != (verb == told) {
				t.Errorf("told %q, called %s: %v", told, verb, err)
			}
		}
	}
}

// TestFollow: go-smtp follows a session through all changes of its state. A transaction that ends in any way may be followed by
// another one.
func TestFollow(t *testing.T) {
	t.Parallel()
	open := false
	s := &script{idle: func() bool { return !open }, command: func(_ *Conn, verb, arg string) message.Reply {
		switch verb {
		case "MAIL":
			open = true
		case "RSET", "EHLO", "DATA", "BDAT":
			open = false
		case "QUIT":
			return message.MustReply(221, "2.0.0", "Bye")
		}
		if arg == "refused" {
			return message.MustReply(550, "5.7.1", "No")
		}
		return accept(nil, "", "")
	}}
	const begin = "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT refused\r\n"
	codes := converse(t, s, "HELO x\r\nMAIL refused\r\n"+begin+"DATA\r\n"+begin+"DATA refused\r\n"+begin+"BDAT 0 LAST\r\n"+begin+"RSET\r\n"+begin+"EHLO x\r\nAUTH PLAIN\r\n"+begin+"QUIT\r\n", "NOOP\r\n")
	const done = "250 250 550 "
	sameList(t, "codes", codes, "220 250 550 "+done+"250 "+done+"550 "+done+"250 "+done+"250 "+done+"250 250 "+done+"221")
	if s.lost != nil {
		t.Errorf("lost: %v", s.lost)
	}
}

// TestStrictLines: a line that does not end in CRLF, has a bare CR, or is too long ends the reading. What follows it is not read
// as a command.
func TestStrictLines(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"NOOP\nNOOP\r\n": ErrBareLF, "NOOP\rNOOP\r\n": ErrBareCR, "NOOP\r\r\nNOOP\r\n": ErrBareCR, "\nNOOP\r\n": ErrBareLF,
		"NOOP " + strings.Repeat("x", 506) + "\r\nNOOP\r\n": ErrLineTooLong, strings.Repeat("x", 600): ErrLineTooLong,
		"AUTH " + strings.Repeat("x", 600) + "\r\nNOOP\r\n": ErrLineTooLong, // longer only under TLS
	} {
		t.Run(fmt.Sprintf("%.12q", text), func(t *testing.T) {
			t.Parallel()
			s := &script{command: accept}
			sameList(t, "codes", converse(t, s, text), "220 421")
			if len(s.verbs) > 0 || s.lost != want {
				t.Errorf("verbs %v, lost %v", s.verbs, s.lost)
			}
		})
	}
	s := &script{command: accept}
	sameList(t, "codes", converse(t, s, "NOOP "+strings.Repeat("x", 505)+"\r\n"), "220 250") // 512 octets
}

// TestMessageErrorsAreSticky: after an error in a message, nothing is read as a command, even if the session does not hang up.
func TestMessageErrorsAreSticky(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a\nb", "a\rb\r\n", "a\x00b\r\n"} {
		for _, verb := range []string{"DATA", "BDAT"} {
			t.Run(fmt.Sprintf("%s %q", verb, text), func(t *testing.T) {
				t.Parallel()
				s := &script{command: func(c *Conn, verb, _ string) message.Reply {
					b, p := &Body{Store: &kept{}, Max: 1 << 20, Line: 1 << 20, Endless: 1 << 20}, &Pace{Window: time.Minute}
					switch {
					case verb == "DATA" && c.ReadData(b, p) == nil, verb == "BDAT" && c.ReadChunk(int64(len(text)), b, p) == nil:
						t.Error("no error")
					}
					return message.MustReply(554, "5.6.0", "No")
				}}
				sameList(t, "codes", converse(t, s, verb+"\r\n"+text+"\r\n.\r\nNOOP\r\n"), "220 554")
				sameList(t, "verbs", s.verbs, verb)
			})
		}
	}
}

// TestStallIsSticky: a time-out ends the reading. What comes later is not read.
func TestStallIsSticky(t *testing.T) {
	t.Parallel()
	here, there := testpipe.New()
	c := testConn(here)
	there.Write([]byte("half a line"))
	if _, err := c.readLine(512, time.Millisecond, true); !IsTimeout(err) {
		t.Fatalf("first: %v", err)
	}
	there.Write([]byte("\r\nNOOP\r\n"))
	c.w, c.r = 0, 0
	if line, err := c.readLine(512, time.Minute, true); err == nil {
		t.Errorf("then %q was read", line)
	}
}

// TestHandshakeDropsWhatCameBefore: octets in the clear after STARTTLS end the connection, and nothing more is read or written.
func TestHandshakeDropsWhatCameBefore(t *testing.T) {
	t.Parallel()
	s := &script{command: func(c *Conn, verb, _ string) message.Reply {
		if verb == "STARTTLS" {
			if err := c.Handshake(context.Background(), &tls.Config{}, time.Minute); err != errBeforeTLS {
				t.Errorf("Handshake: %v", err)
			}
		}
		return accept(nil, "", "")
	}}
	sameList(t, "codes", converse(t, s, "STARTTLS\r\nEHLO evil\r\n"), "220")
	sameList(t, "verbs", s.verbs, "STARTTLS")
}

// TestFailedHandshakeIsTheEnd: after a failed handshake nothing is read in the clear.
func TestFailedHandshakeIsTheEnd(t *testing.T) {
	t.Parallel()
	s := &script{command: func(c *Conn, verb, _ string) message.Reply {
		if verb == "STARTTLS" {
			c.Send(message.MustReply(220, "2.0.0", "Go"))
			if err := c.Handshake(context.Background(), &tls.Config{}, time.Minute); err == nil {
				t.Error("no error")
			}
			return message.Reply{}
		}
		return accept(nil, "", "")
	}}
	for _, code := range converse(t, s, "STARTTLS\r\n", "EHLO evil in the clear\r\n", "NOOP\r\n")[1:] {
		if code != "220" && strings.Trim(code, "0123456789") == "" { // an alert of TLS may follow
			t.Errorf("reply %s", code)
		}
	}
	sameList(t, "verbs", s.verbs, "STARTTLS")
}

// TestLastReply: HangUp, 421 and a greeting other than 220 end the connection. A zero reply sends nothing.
func TestLastReply(t *testing.T) {
	t.Parallel()
	s := &script{command: func(c *Conn, _, _ string) message.Reply {
		c.HangUp()
		return message.MustReply(501, "5.5.4", "No")
	}}
	sameList(t, "codes", converse(t, s, "NOOP\r\nNOOP\r\n"), "220 501")
	s = &script{command: func(*Conn, string, string) message.Reply { return message.MustReply(421, "4.7.0", "No") }}
	sameList(t, "codes", converse(t, s, "NOOP\r\nNOOP\r\n"), "220 421")
	s = &script{greeting: message.MustReply(554, "5.7.1", "No"), command: accept}
	sameList(t, "codes", converse(t, s, "NOOP\r\n"), "554")
	s = &script{command: func(*Conn, string, string) message.Reply { return message.Reply{} }}
	sameList(t, "codes", converse(t, s, "NOOP\r\nNOOP\r\n"), "220")
	sameList(t, "verbs", s.verbs, "NOOP NOOP")
}

// TestPanic: a panic in a command ends the connection with the last reply of the session.
func TestPanic(t *testing.T) {
	t.Parallel()
	s := &script{command: func(*Conn, string, string) message.Reply { panic("test") }}
	sameList(t, "codes", converse(t, s, "NOOP\r\nNOOP\r\n"), "220 421")
	var p *PanicError
	if !errors.As(s.lost, &p) || p.Value != "test" || !strings.Contains(string(p.Stack), "lockstep_test.go") {
		t.Errorf("lost: %v", s.lost)
	}
}

// TestAsk: challenges and answers, and which errors end the connection. An answer does not stay in the input buffer.
func TestAsk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answer string
		want   error
		codes  string
	}{
		{"c2VjcmV0", nil, "220 334 550 250"}, {"=", nil, "220 334 550 250"}, {"", nil, "220 334 550 250"},
		{"*", ErrCancelled, "220 334 550 250"}, {"c2VjcmV", ErrNotBase64, "220 334 550 250"}, {"c2VjcmV0=", ErrNotBase64, "220 334 550 250"},
		{"a\rb", ErrBareCR, "220 334 550"}, {strings.Repeat("x", authLine-1), ErrLineTooLong, "220 334 550"},
	} {
		t.Run(fmt.Sprintf("%.12q", c.answer), func(t *testing.T) {
			t.Parallel()
			s := &script{command: func(conn *Conn, verb, _ string) message.Reply {
				if verb != "AUTH" {
					return accept(nil, "", "")
				}
				answer, err := conn.Ask([]byte("Password:"), time.Minute)
				if err != c.want || err == nil && c.answer == "c2VjcmV0" && string(answer) != "secret" {
					t.Errorf("%q, %v", answer, err)
				}
				if strings.Contains(string(conn.in), "c2VjcmV") {
					t.Error("the answer is in the buffer")
				}
				return message.MustReply(550, "5.7.1", "No")
			}}
			sameList(t, "codes", converse(t, s, "AUTH LOGIN\r\n", c.answer+"\r\n", "NOOP\r\n"), c.codes)
		})
	}
}

// TestAuthLineIsWiped: the initial response of AUTH does not stay in the input buffer.
func TestAuthLineIsWiped(t *testing.T) {
	t.Parallel()
	s := &script{command: func(c *Conn, _, arg string) message.Reply {
		if arg != "PLAIN c2VjcmV0" || strings.Contains(string(c.in), "c2VjcmV0") {
			t.Errorf("argument %q, buffer %q", arg, c.in)
		}
		return message.MustReply(550, "5.7.1", "No")
	}}
	sameList(t, "codes", converse(t, s, "AUTH PLAIN c2VjcmV0\r\n"), "220 550")
}

// TestInterrupt: a connection that waits for a command fails with ErrStopping. One that has commands to read does so as soon as
// it is idle.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	open := true
	s := &script{idle: func() bool { return !open }, command: func(c *Conn, verb, _ string) message.Reply {
		c.Interrupt()
		open = verb != "RSET"
		return accept(nil, "", "")
	}}
	sameList(t, "codes", converse(t, s, "NOOP\r\nNOOP\r\nRSET\r\nNOOP\r\n"), "220 250 250 250 421")
	sameList(t, "verbs", s.verbs, "NOOP NOOP RSET")
	if s.lost != ErrStopping {
		t.Errorf("lost: %v", s.lost)
	}
}
