package kill

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
)

// Kinds of messages that clients send while the server is killed.
const (
	killPlain  = iota // to be taken
	killPolicy        // policy refuses it
	killHopNo         // the next hop refuses it
	killHalf          // the client goes away before its end
)

// killMail is one message: its kind, and the replies that its sender got.
type killMail struct {
	kind  int
	text  string // CRLF line ends, dots not stuffed
	to    []string
	retry bool // its client sends it again when it got no reply

	taken   int // answered 250
	unsure  int // tries of which the end was sent, or may have been, and which were not answered
	refused int // answered 5xx
	later   int // answered 4xx
	copies  int
}

// killLedger is what was sent, answered and delivered.
type killLedger struct {
	single bool // one recipient each
	mu     sync.Mutex
	mails  map[string]*killMail
	faults []string
	next   atomic.Int64
	final  atomic.Int64 // 250 and 5xx that were said of messages
}

func (l *killLedger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) < 20 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// note changes a message's account.
func (l *killLedger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// make writes message number n. What it is depends on n alone.
func (l *killLedger) make() (id string, m *killMail) {
	n := l.next.Add(1)
	r := rand.New(rand.NewPCG(9, uint64(n)))
	id = fmt.Sprintf("k%d", n)
	m = &killMail{kind: killPlain, retry: n%2 == 0, to: []string{id + "@example.net"}}
	switch n % 20 {
	case 3:
		m.kind = killPolicy
	case 7:
		m.kind = killHopNo
	case 11:
		m.kind = killHalf
	}
	if n%5 == 0 && !l.single {
		m.to = append(m.to, id+"@example.org")
	}
	size := []int{500, 1000, 2000, 2000, 4000, 20_000, 20_000, 60_000, 200_000}[r.IntN(9)] // the last goes through a spool file
	from, mark := e2e.Address, "Subject: kill\r\n"
	switch m.kind {
	case killPolicy:
		from, mark = "ceo@example.com", "Subject: not hers\r\n"
	case killHopNo:
		mark = "Subject: hop-refuses\r\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\n%sDate: Mon, 2 Mar 2026 09:00:00 +0100\r\nMessage-ID: <%s@kill.example.com>\r\n\r\n", from, m.to[0], mark, id)
	for b.Len() < size {
		fmt.Fprintf(&b, "%s%x %s\r\n", []string{"", ".", ". "}[r.IntN(3)], r.Uint64(), strings.Repeat(".x", r.IntN(30)))
	}
	m.text = b.String()
	l.note(func() { l.mails[id] = m })
	return id, m
}

// killBody takes off what a server may put on top of a message: one field.
func killBody(text string) (body string, ok bool) {
	field, rest, found := strings.Cut(text, "\r\nFrom: ")
	if !found || !strings.HasPrefix(field, "Received: ") {
		return "", false
	}
	for _, line := range strings.Split(field, "\r\n")[1:] {
		if line == "" || line[0] != ' ' && line[0] != '\t' {
			return "", false
		}
	}
	return "From: " + rest, true
}

// arrived takes a message that came to its end: exactly one that was sent, octet by octet, to whom it was sent.
func (l *killLedger) arrived(c killCopy) {
	id, _, _ := strings.Cut(append(c.to, "?@")[0], "@")
	l.mu.Lock()
	m := l.mails[id]
	if m != nil {
		m.copies++
	}
	l.mu.Unlock()
	switch body, ok := killBody(c.text); {
	case m == nil:
		l.fault("a message that nobody sent, to %q: %.200q", c.to, c.text)
	case !ok || body != m.text:
		l.fault("%s is not as it was sent: %d octets of %d, %.300q", id, len(c.text), len(m.text), c.text)
	case !slices.Equal(c.to, m.to):
		l.fault("%s came to %q", id, c.to)
	}
}

// killClient sends message after message to wherever the server listens now, until stop.
type killClient struct {
	ledger *killLedger
	addr   func() string // "": it does not run
	plain  bool          // neither TLS nor login
	stop   <-chan struct{}

	conn net.Conn
	rd   *bufio.Reader
}

var errGone = errors.New("the server is gone")

func (c *killClient) run() {
	defer c.hangUp()
	id, m := c.ledger.make()
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		if c.conn == nil && !c.connect() {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		done, err := c.send(id, m)
		if err != nil {
			c.hangUp()
		}
		if done || !m.retry {
			id, m = c.ledger.make()
		}
	}
}

func (c *killClient) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *killClient) connect() bool {
	addr := c.addr()
	if addr == "" {
		return false
	}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if !c.plain {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	c.conn, c.rd = conn, bufio.NewReader(conn)
	lines := []string{"220", "EHLO laptop.example.com\r\n", "250"}
	if !c.plain {
		lines = append(lines, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+e2e.Login+"\x00"+e2e.Password))+"\r\n", "235")
	}
	for _, l := range lines {
		if strings.HasSuffix(l, "\n") {
			_, err = io.WriteString(conn, l)
		} else if reply := ""; err == nil {
			if reply, err = c.reply(); err == nil && !strings.HasPrefix(reply, l) {
				err = errors.New(reply)
			}
		}
	}
	if err != nil {
		c.hangUp()
	}
	return err == nil
}

// reply reads one, of several lines perhaps.
func (c *killClient) reply() (string, error) {
	for {
		line, err := c.rd.ReadString('\n')
		if err != nil {
			return "", errGone
		}
		if len(line) > 3 && line[3] != '-' {
			return strings.TrimSpace(line), nil
		}
	}
}

// send tries a message once and enters into the ledger what came of it. done: it need not be sent again. With an error
// the connection is of no use any more.
func (c *killClient) send(id string, m *killMail) (done bool, err error) {
	begin := "MAIL FROM:<" + e2e.Address + ">\r\n"
	for _, to := range m.to {
		begin += "RCPT TO:<" + to + ">\r\n"
	}
	chunked := len(id)%2 == 0
	replies := len(m.to) + 1
	if !chunked {
		begin += "DATA\r\n"
		replies++
	}
	if _, err := io.WriteString(c.conn, begin); err != nil {
		return false, errGone
	}
	var refusal string
	for i := range replies {
		r, err := c.reply()
		if err != nil {
			return false, err
		}
		if r[0] != '2' && (r[0] != '3' || chunked || i != replies-1) && refusal == "" {
			refusal = r
		}
	}
	if refusal != "" {
		return c.answered(id, m, refusal)
	}
	// Everything but the end first. Without the end, no server can have accepted the message.
	text, end := m.text, ".\r\n"
	if chunked {
		text, end = m.text[:len(m.text)-1], m.text[len(m.text)-1:]
		text = fmt.Sprintf("BDAT %d LAST\r\n", len(m.text)) + text
	} else {
		text = strings.ReplaceAll("\n"+text, "\n.", "\n..")[1:]
	}
	if m.kind == killHalf {
		io.WriteString(c.conn, text[:len(text)*3/4])
		return true, errGone
	}
	if _, err := io.WriteString(c.conn, text); err != nil {
		return false, errGone
	}
	_, err = io.WriteString(c.conn, end)
	var r string
	if err == nil {
		r, err = c.reply()
	}
	if err != nil {
		c.ledger.note(func() { m.unsure++ })
		return false, errGone
	}
	return c.answered(id, m, r)
}

func (c *killClient) answered(id string, m *killMail, reply string) (done bool, err error) {
	c.ledger.note(func() {
		switch reply[0] {
		case '2':
			m.taken++
		case '5':
			m.refused++
		default:
			m.later++
		}
	})
	if reply[0] == '5' && m.kind == killPlain {
		c.ledger.fault("%s was refused: %s", id, reply)
	}
	if reply[0] == '4' { // begin anew
		return false, errors.New(reply)
	}
	c.ledger.final.Add(1)
	return true, nil
}
