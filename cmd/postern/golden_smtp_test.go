package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/trial"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/relay"
)

// TestGoldenSubmission takes the golden transactions through a real connection to the submission server: the same
// verdicts, the same reply texts, the same bytes as the engine alone gives, Received apart.
func TestGoldenSubmission(t *testing.T) {
	files := testCertificate(t)
	golden(t, func(t *testing.T, c *trial.Case, eng *engine.Engine, _ string) {
		next, held := &memoryHop{}, &memoryHop{}
		addr := goldenServer(t, eng, files, next, held)
		got := submitCase(t, addr, c.Transaction)
		verdict, msg := "accept", next.last
		switch {
		case got.reply != "" && got.reply[0] == '4':
			verdict = "defer"
		case got.reply != "":
			verdict = "reject"
		case held.last != nil:
			verdict, msg = "quarantine", held.last
		case next.last == nil:
			verdict = "discard"
		}
		if want := wanted(c.Want); want != (outcome{verdict, got.stage, got.reply, got.refused}).String() {
			t.Errorf("got:\n%s\nwant:\n%s", outcome{verdict, got.stage, got.reply, got.refused}, want)
		}
		if msg == nil {
			if verdict != "discard" && c.WantMessage != nil {
				t.Errorf("nothing came out; wanted:\n%s", c.WantMessage)
			}
			return
		}
		if envelope := msg.envelope(); !strings.HasSuffix(c.Want, envelope) {
			t.Errorf("got the envelope\n%s\nwant:\n%s", envelope, c.Want)
		}
		if got := withoutOurs(msg.body); !bytes.Equal(got, sameIDs(c.WantMessage)) {
			t.Errorf("got:\n%s\nwant:\n%s", got, c.WantMessage)
		}
	})
}

// outcome is what a client can see of a transaction.
type outcome struct {
	verdict, stage, reply string
	refused               []string
}

func (o outcome) String() string {
	s := "verdict: " + o.verdict + "\nstage: " + o.stage + "\n"
	if o.reply != "" {
		s += "reply: " + o.reply + "\n"
	}
	return s + strings.Join(o.refused, "")
}

// wanted is what of a want section a client can see. A refusal at connect is a greeting, which has a code of its own
// (RFC 5321 section 4.2.3).
func wanted(want string) string {
	var b strings.Builder
	for line := range strings.Lines(want) {
		for _, p := range []string{"verdict: ", "stage: ", "reply: ", "refused: "} {
			if strings.HasPrefix(line, p) {
				b.WriteString(line)
			}
		}
	}
	if s := b.String(); strings.Contains(s, "stage: connect\n") {
		return strings.Replace(s, "reply: 550", "reply: 554", 1)
	}
	return b.String()
}

// generatedID is a Message-ID that we made: the id in it differs from door to door.
var generatedID = regexp.MustCompile(`<20260601120000\.000000\.[^@>]+@localhost>`)

// withoutOurs is a message without our Received field and with generated ids made equal.
func withoutOurs(b []byte) []byte {
	if rest, ok := bytes.CutPrefix(b, []byte("Received: ")); ok {
		for {
			_, after, _ := bytes.Cut(rest, []byte("\r\n"))
			rest = after
			if len(rest) == 0 || rest[0] != ' ' && rest[0] != '\t' {
				break
			}
		}
		b = rest
	}
	return sameIDs(b)
}

// sameIDs is a message with generated ids made equal.
func sameIDs(b []byte) []byte { return generatedID.ReplaceAll(b, []byte("<ID>")) }

func testCertificate(t *testing.T) certs.Files {
	t.Helper()
	dir := t.TempDir()
	files := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	if _, err := certs.EnsureSelfSigned(files.Cert, files.Key, "localhost", time.Now()); err != nil {
		t.Fatal(err)
	}
	return files
}

// goldenServer is a submission server with implicit TLS that takes client addresses from a PROXY header.
func goldenServer(t *testing.T, eng *engine.Engine, files certs.Files, next, held relay.Hop) string {
	t.Helper()
	reloader, err := certs.NewReloader(files, true, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := reloader.Config()
	s := &smtpd.Server{
		Hostname: "localhost", Engine: eng, Relay: next, Quarantine: held, Auth: []auth.Backend{anyone{}}, Anonymous: true,
		TLS: func() *tls.Config { return config }, Clock: func() time.Time { return trial.CaseTime },
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- s.Serve(context.Background(), smtpd.Listener{Listener: l, Name: "golden", TLS: true, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		<-done
	})
	return l.Addr().String()
}

// anyone proves every login.
type anyone struct{}

func (anyone) Name() string { return "file" }

func (anyone) Password(_ context.Context, login, _ string) (auth.Identity, error) {
	return auth.Identity{Login: login, Backend: "file"}, nil
}

// dialogue is what the client was told.
type dialogue struct {
	stage, reply string
	refused      []string
}

// submitCase speaks a case and stops where it is settled.
func submitCase(t *testing.T, addr string, tx trial.Transaction) dialogue {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(raw, "PROXY TCP4 %s 127.0.0.1 4711 465\r\n", tx.Session.Client.IP)
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	c := &speaker{t: t, w: conn, r: bufio.NewReader(conn)}
	if reply := c.reply(); reply[0] != '2' {
		return dialogue{stage: "connect", reply: reply}
	}
	c.say("EHLO " + tx.Session.Client.EHLO)
	if tx.Session.Login != "" {
		c.say("AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+tx.Session.Login+"\x00x")))
	}
	if reply := c.say("MAIL FROM:" + tx.From.String() + parameters(tx.Params)); reply[0] != '2' {
		return dialogue{stage: "mail", reply: reply}
	}
	d := dialogue{stage: "message"}
	taken := 0
	for _, to := range tx.To {
		reply := c.say("RCPT TO:" + to.Path.String() + parameters(to.Params))
		if reply[0] == '2' {
			taken++
			continue
		}
		d.refused = append(d.refused, "refused: RCPT TO:"+to.Path.String()+": "+reply+"\n")
		d.reply = reply
	}
	if taken == 0 {
		d.stage = "rcpt"
		return d
	}
	d.reply = ""
	c.say("DATA")
	if _, err := conn.Write(stuffed(string(tx.Message))); err != nil {
		t.Fatal(err)
	}
	if reply := c.reply(); reply[0] != '2' {
		d.reply = reply
	}
	return d
}

func parameters(p message.Params) string {
	s := ""
	for k, v := range p {
		s += " " + k
		if v != "" {
			s += "=" + v
		}
	}
	return s
}

type speaker struct {
	t *testing.T
	w io.Writer
	r *bufio.Reader
}

func (c *speaker) say(line string) string {
	if _, err := io.WriteString(c.w, line+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	return c.reply()
}

// reply reads one reply and puts its lines on one, as message.Reply.String does.
func (c *speaker) reply() string {
	c.t.Helper()
	var text []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%v after %q", err, text)
		}
		line = strings.TrimRight(line, "\r\n")
		if len(text) > 0 { // code and status stand on every line
			line = line[:4] + strings.TrimPrefix(line[4:], strings.Fields(text[0])[1]+" ")
			text = append(text, line[4:])
		} else {
			text = append(text, line[:3]+" "+line[4:])
		}
		if line[3] == ' ' {
			return strings.Join(text, " ")
		}
	}
}

// memoryHop is a next hop that takes everything and remembers the last message.
type memoryHop struct {
	mu   sync.Mutex
	last *memoryTx
}

type memoryTx struct {
	hop  *memoryHop
	from message.Path
	to   []message.Path
	body []byte
}

func (h *memoryHop) Begin(_ context.Context, env relay.Envelope) (relay.Tx, error) {
	return &memoryTx{hop: h, from: env.From}, nil
}

func (h *memoryHop) Close() error { return nil }

func (h *memoryHop) Extensions(context.Context) (relay.Extensions, bool) {
	return relay.Extensions{EightBit: true, UTF8: true, DSN: true}, true
}

func (m *memoryTx) Rcpt(_ context.Context, to message.Path, _ message.Params) error {
	m.to = append(m.to, to)
	return nil
}

func (m *memoryTx) Data(_ context.Context, size int64, body func() io.Reader) (message.Reply, error) {
	b, err := io.ReadAll(body())
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("%d octets came, %d were announced", len(b), size)
	}
	m.body = b
	m.hop.mu.Lock()
	defer m.hop.mu.Unlock()
	m.hop.last = m
	return message.MustReply(250, "2.0.0", "Ok"), err
}

func (m *memoryTx) Abort() {}

// envelope as the want section ends with it.
func (m *memoryTx) envelope() string {
	s := "from: " + m.from.String() + "\n"
	for _, to := range m.to {
		s += "to: " + to.String() + "\n"
	}
	return s
}
