package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"github.com/postern-mail/postern/internal/socket"
)

// conn is one connection to a next hop. One goroutine uses it at a time: that of the transaction it serves.
type conn struct {
	nc    net.Conn
	rd    *bufio.Reader
	times Timeouts
	caps  capabilities
	owed  int  // replies to what we have sent that are still to come
	doubt bool // never to be used for another message
	uses  int  // messages
	idle  time.Time
	late  func(step) // is told which time has run out
}

// arm bounds the next step by its time and by ctx. release ends that; every step arms anew.
func (c *conn) arm(ctx context.Context, s step) (release func()) {
	nc := c.nc
	if err := nc.SetDeadline(time.Now().Add(s.wait)); err != nil {
		c.doubt = true
	}
	if ctx.Done() == nil {
		return func() {}
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if !stop() {
			c.doubt = true // its deadline may change under the next user's hands
		}
	}
}

// send writes commands that call for n replies.
func (c *conn) send(ctx context.Context, n int, commands []byte) error {
	if c.owed == 0 && c.rd.Buffered() > 0 {
		c.doubt = true
		return protocolError("a reply came before its command")
	}
	c.owed += n
	_, err := c.write(ctx, c.times.command(), commands)
	return err
}

// write sends b; where it fails, n octets may have left.
func (c *conn) write(ctx context.Context, s step, b []byte) (n int, err error) {
	release := c.arm(ctx, s)
	defer release()
	if n, err = c.nc.Write(b); err != nil {
		return n, c.failed(ctx, s, err)
	}
	return n, nil
}

// failed gives the cause to log of a step that failed, and ends the use of c.
func (c *conn) failed(ctx context.Context, s step, err error) error {
	c.doubt = true
	if ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.late(s)
	}
	return cutShort(ctx, err)
}

// read waits for the next reply, for as long as s says at most however slowly it comes.
func (c *conn) read(ctx context.Context, s step) (serverReply, error) {
	release := c.arm(ctx, s)
	defer release()
	r, err := readReply(c.rd)
	if err != nil {
		return serverReply{}, c.failed(ctx, s, err)
	}
	c.owed--
	if r.code == 421 { // RFC 5321 §3.8: it closes the connection
		c.doubt = true
	}
	return r, nil
}

// ask sends one command and reads its reply.
func (c *conn) ask(ctx context.Context, command string) (serverReply, error) {
	if err := c.send(ctx, 1, []byte(command+"\r\n")); err != nil {
		return serverReply{}, err
	}
	return c.read(ctx, c.times.command())
}

// abortTime is how long an abandoned transaction or an idle connection may hold us up.
const abortTime = 5 * time.Second

// reset ends a transaction that has not come to its data.
func (c *conn) reset() {
	if c.doubt || c.owed != 0 {
		c.doubt = true
		return
	}
	c.times.Command, c.doubt = min(c.times.Command, abortTime), true
	if r, err := c.ask(context.Background(), "RSET"); err == nil && r.class() == 2 {
		c.doubt = false
	}
}

// waiting reports whether the next hop has said something, or gone, although it owes us nothing. ok is false where
// this cannot be told without waiting.
func (c *conn) waiting() (yes, ok bool) {
	if c.rd.Buffered() > 0 {
		return true, true
	}
	nc := c.nc
	if t, isTLS := nc.(*tls.Conn); isTLS {
		// What came behind the last reply may be in TLS's own buffer, where the socket does not show it. With a
		// deadline in the past only that is read; the time-out leaves t usable.
		if t.SetReadDeadline(time.Unix(1, 0)) != nil {
			return true, true
		}
		if _, err := c.rd.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			return true, true
		}
		nc = t.NetConn()
	}
	return socket.Readable(nc)
}

// alive says whether a kept connection may serve another message.
func (c *conn) alive(ctx context.Context) bool {
	yes, ok := c.waiting()
	if !ok {
		r, err := c.ask(ctx, "NOOP")
		return err == nil && r.class() == 2 && !c.doubt
	}
	return !yes
}

// close ends the connection, with QUIT where the dialogue is in order. The answer is not waited for.
func (c *conn) close() {
	if !c.doubt && c.owed == 0 {
		c.nc.SetWriteDeadline(time.Now().Add(abortTime))
		c.nc.Write([]byte("QUIT\r\n"))
	} else if t, isTLS := c.nc.(*tls.Conn); isTLS {
		t.NetConn().Close() // t would wait 5 s to say goodbye to a next hop that reads no more
		return
	}
	c.nc.Close()
}
