package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

var anyCertificate = &tls.Config{InsecureSkipVerify: true, ServerName: "soak.example.com"}

const timeout = 3 * time.Minute // of a good client, for a login or a message

// connection is a connection of a good client that has logged in.
type connection struct {
	*testload.Client
	login string
	left  int // messages it will still send
	since time.Time
	dead  bool
}

// from connects from the loopback address ip, so that limits by address do not apply to all clients together.
func from(ip net.IP, addr string, within time.Duration) (*testload.Client, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}, Timeout: 30 * time.Second}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(within))
	return testload.NewClient(conn), nil
}

// connect logs in, through STARTTLS or implicit TLS at random.
func (s *site) connect(ip net.IP, login string) (*connection, error) {
	implicit := rand.IntN(2) == 0
	addr := s.plain
	if implicit {
		addr = s.tls
	}
	c, err := from(ip, addr, timeout)
	if err != nil {
		return nil, err
	}
	if implicit {
		c = testload.NewClient(tls.Client(c.Conn, anyCertificate))
	}
	out := &connection{Client: c, login: login}
	if err := greet(c, !implicit, login); err != nil {
		c.Close()
		return nil, err
	}
	return out, nil
}

func greet(c *testload.Client, starttls bool, login string) error {
	if err := c.Expect(220); err != nil {
		return err
	}
	if err := c.Command("EHLO client.example.com", 250); err != nil {
		return err
	}
	if starttls {
		if err := c.StartTLS(anyCertificate); err != nil {
			return err
		}
		if err := c.Command("EHLO client.example.com", 250); err != nil {
			return err
		}
	}
	return c.Login(login, password)
}

// answer is a reply to a client.
type answer struct {
	code int
	text string
}

func (c *connection) read() (answer, error) {
	code, text, err := c.Reply()
	c.dead = c.dead || err != nil || code == 421
	return answer{code, text}, err
}

// send submits a letter and returns the final reply. If the sender or all recipients are refused, that is the final reply.
func (c *connection) send(l *letter) (answer, error) {
	c.since = time.Now()
	if err := c.Conn.SetDeadline(c.since.Add(timeout)); err != nil {
		return answer{}, err
	}
	lines := []string{fmt.Sprintf("MAIL FROM:<%s> SIZE=%d", l.sender, len(l.head)+len(l.body))}
	for _, to := range l.to {
		lines = append(lines, "RCPT TO:<"+to+">")
	}
	if !l.bdat && l.pipelined {
		lines = append(lines, "DATA")
	}
	replies, err := c.ask(lines, l.pipelined)
	no, accepted := verdictOf(replies, len(l.to))
	switch {
	case no.code == 421:
		return no, nil
	case err != nil:
		return answer{}, err
	case !accepted && !(l.pipelined && !l.bdat && replies[len(replies)-1].code == 354):
		return no, nil
	case l.bdat:
		return c.bdat(l)
	}
	data := replies[len(replies)-1]
	if !l.pipelined {
		if replies, err = c.ask([]string{"DATA"}, false); err != nil {
			return answer{}, err
		}
		data = replies[0]
	}
	if data.code != 354 {
		return data, nil
	}
	return c.data(l)
}

// verdictOf returns the first refusal that ends the message, and whether a recipient was accepted.
func verdictOf(replies []answer, recipients int) (no answer, accepted bool) {
	for i, r := range replies {
		if r.code == 421 || i == 0 && r.code/100 != 2 {
			return r, false
		}
		if i > 0 && i <= recipients {
			accepted = accepted || r.code/100 == 2
			if r.code/100 != 2 && no.code == 0 {
				no = r
			}
		}
	}
	return no, accepted
}

// ask sends lines and reads the replies. Without pipelining it stops after a refused MAIL.
func (c *connection) ask(lines []string, pipelined bool) ([]answer, error) {
	var all bytes.Buffer
	var replies []answer
	for _, l := range lines {
		all.WriteString(l + "\r\n")
		if pipelined {
			continue
		}
		if _, err := c.Conn.Write(all.Bytes()); err != nil {
			return replies, err
		}
		all.Reset()
		r, err := c.read()
		if err != nil {
			return replies, err
		}
		if replies = append(replies, r); r.code == 421 || len(replies) == 1 && r.code/100 > 3 {
			return replies, nil
		}
	}
	if !pipelined {
		return replies, nil
	}
	if _, err := c.Conn.Write(all.Bytes()); err != nil {
		return nil, err
	}
	for range lines {
		r, err := c.read()
		if err != nil {
			return replies, err
		}
		if replies = append(replies, r); r.code == 421 {
			break
		}
	}
	return replies, nil
}

func (c *connection) data(l *letter) (answer, error) {
	if _, err := c.Conn.Write([]byte(l.head)); err != nil {
		return answer{}, err
	}
	body := stuffed(l.body)
	if _, err := c.Conn.Write(append(body, ".\r\n"...)); err != nil {
		return answer{}, err
	}
	return c.read()
}

// stuffed returns a dot-stuffed copy of body.
func stuffed(body []byte) []byte {
	out := make([]byte, 0, len(body)+len(body)/64+64)
	if len(body) > 0 && body[0] == '.' {
		out = append(out, '.')
	}
	for {
		i := bytes.Index(body, []byte("\r\n."))
		if i < 0 {
			return append(out, body...)
		}
		out = append(out, body[:i+3]...)
		out = append(out, '.')
		body = body[i+3:]
	}
}

// bdat sends the letter in up to four chunks.
func (c *connection) bdat(l *letter) (answer, error) {
	whole := append([]byte(l.head), l.body...)
	n := 1 + rand.IntN(4)
	sent := 0
	var last answer
	for i := range n {
		size, end := len(whole)/n, ""
		if i == n-1 {
			size, end = len(whole)-sent, " LAST"
		}
		chunk := append([]byte(fmt.Sprintf("BDAT %d%s\r\n", size, end)), whole[sent:sent+size]...)
		sent += size
		if _, err := c.Conn.Write(chunk); err != nil {
			return answer{}, err
		}
		if l.pipelined && i < n-1 {
			continue
		}
		replies := 1
		if l.pipelined {
			replies = n
		}
		for range replies {
			r, err := c.read()
			if err != nil {
				return answer{}, err
			}
			if last.code/100 <= 2 {
				last = r
			}
		}
		if last.code/100 != 2 {
			break
		}
	}
	return last, nil
}

func (c *connection) used() time.Time { return c.since }

// quit ends the session with QUIT if the connection still works.
func (c *connection) quit() {
	if !c.dead {
		_ = c.Conn.SetDeadline(time.Now().Add(30 * time.Second))
		_ = c.Command("QUIT", 221)
	}
	c.Close()
}
