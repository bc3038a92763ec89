package wire

import (
	"io"
	"net"
	"net/textproto"

	gomilter "github.com/emersion/go-milter"
)

// Serve lets the library serve the connections of ln until ln.Accept fails, and returns that error. It closes ln. open makes
// the Conn of an accepted socket, on Serve's goroutine; where it returns nil the socket is closed.
func Serve(ln net.Listener, open func(net.Conn) *Conn) error {
	l := &listener{Listener: ln, open: open}
	server := gomilter.Server{NewMilter: l.newBackend}
	return server.Serve(l)
}

// listener hands the library transports instead of sockets.
type listener struct {
	net.Listener
	open     func(net.Conn) *Conn
	accepted *Conn // the library has not asked for its backend yet
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		socket, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.accepted = l.open(socket); l.accepted != nil {
			return &transport{Conn: socket, conn: l.accepted}, nil
		}
		_ = socket.Close()
	}
}

// newBackend makes the backend of the connection that was accepted last. The library calls Accept and newBackend in turn on
// one goroutine. It would call newBackend again after an answer of its own, but it never has one.
func (l *listener) newBackend() gomilter.Milter { return backend{conn: l.accepted} }

// transport is a connection as the library sees it. It reads placeholders of the commands that a Session answers; the
// decoded command is in Conn.command. The other methods of net.Conn are not used.
type transport struct {
	net.Conn
	conn        *Conn
	placeholder []byte // what the library has not read yet
}

// Read implements net.Conn. Its only error is io.EOF, because the library prints all others to the standard logger. The
// Session gets the reason.
func (t *transport) Read(p []byte) (int, error) {
	if len(t.placeholder) == 0 {
		if err := t.conn.next(); err != nil {
			t.conn.finish(err)
			return 0, io.EOF
		}
		var data string
		if t.conn.command.Verb == Connect {
			data = "\x00U\x00" // the least that the library's parser takes
		}
		t.placeholder = appendFrame(nil, byte(t.conn.command.Verb), data)
	}
	n := copy(p, t.placeholder)
	t.placeholder = t.placeholder[n:]
	return n, nil
}

// Write implements net.Conn. Only Conn writes answers, so what the library has to say is held back and ends the connection:
// a mail server that does not wait for an answer would take it for the answer to something else, a refusal for an
// acceptance. Write reports success, because the library prints errors.
func (t *transport) Write(p []byte) (int, error) {
	t.conn.Log.Error("an answer that the mail server does not wait for was held back", "command", string(rune(t.conn.command.Verb)))
	t.conn.Cut()
	return len(p), nil
}

// Close implements net.Conn. The library calls it when the connection's goroutine ends.
func (t *transport) Close() error { return t.conn.close() }

// backend makes each callback of the library the Conn's turn to answer. The arguments are those of the placeholder, and so
// meaningless. A response of nil leaves the library nothing to write.
type backend struct {
	gomilter.NoOpMilter // the callbacks for commands that never reach the library
	conn                *Conn
}

func (b backend) respond() (gomilter.Response, error) {
	b.conn.respond()
	return nil, nil
}

func (b backend) Connect(string, string, uint16, net.IP, *gomilter.Modifier) (gomilter.Response, error) {
	return b.respond()
}

func (b backend) Helo(string, *gomilter.Modifier) (gomilter.Response, error) { return b.respond() }

func (b backend) MailFrom(string, *gomilter.Modifier) (gomilter.Response, error) { return b.respond() }

func (b backend) RcptTo(string, *gomilter.Modifier) (gomilter.Response, error) { return b.respond() }

// Headers is the end of the header.
func (b backend) Headers(textproto.MIMEHeader, *gomilter.Modifier) (gomilter.Response, error) {
	return b.respond()
}

// Body is the end of the message.
func (b backend) Body(*gomilter.Modifier) (gomilter.Response, error) { return b.respond() }
