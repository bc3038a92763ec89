package milter

import (
	"context"
	"fmt"
	"net"
	"net/textproto"
	"runtime/debug"
	"strings"

	gomilter "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// session is the library's backend for one connection. It holds facts by scope: those of the connection until the MTA
// brings a new client, those of a transaction in tx. All methods run on the connection's goroutine.
type session struct {
	conn    *conn
	client  engine.Client
	refused message.Reply // a refusal at CONNECT: it holds for the connection
	tx      *transaction
}

var _ gomilter.Milter = (*session)(nil)

// newConnection forgets everything: the MTA uses the socket for another client.
func (s *session) newConnection() { *s = session{conn: s.conn} }

// verdict is an answer of ours. The zero value lets the dialogue go on.
type verdict struct {
	reply   message.Reply // a refusal
	discard bool
}

// Connect implements gomilter.Milter.
func (s *session) Connect(string, string, uint16, net.IP, *gomilter.Modifier) (gomilter.Response, error) {
	return s.answer(s.connect), nil
}

// Helo implements gomilter.Milter.
func (s *session) Helo(string, *gomilter.Modifier) (gomilter.Response, error) {
	return s.answer(func(context.Context) verdict {
		s.client.EHLO = printable(s.conn.event.helo)
		return verdict{}
	}), nil
}

// MailFrom implements gomilter.Milter.
func (s *session) MailFrom(string, *gomilter.Modifier) (gomilter.Response, error) {
	return s.answer(s.mail), nil
}

// RcptTo implements gomilter.Milter.
func (s *session) RcptTo(string, *gomilter.Modifier) (gomilter.Response, error) {
	return s.answer(s.rcpt), nil
}

// Header implements gomilter.Milter. conn keeps the fields; it is never called.
func (s *session) Header(string, string, *gomilter.Modifier) (gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

// Headers implements gomilter.Milter: the header has ended.
func (s *session) Headers(textproto.MIMEHeader, *gomilter.Modifier) (gomilter.Response, error) {
	return s.answer(s.endOfHeader), nil
}

// BodyChunk implements gomilter.Milter. conn keeps the body; it is never called.
func (s *session) BodyChunk([]byte, *gomilter.Modifier) (gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

// Body implements gomilter.Milter: end of message.
func (s *session) Body(*gomilter.Modifier) (gomilter.Response, error) {
	return s.answer(s.endOfMessage), nil
}

// Abort implements gomilter.Milter.
func (s *session) Abort(*gomilter.Modifier) error {
	s.tx = nil
	return nil
}

// answer runs a handler and sends what it says, unless the MTA does not wait for it. The library is given nothing to write: it
// would take a buffer of 4 KiB for each answer.
func (s *session) answer(handle func(context.Context) verdict) gomilter.Response {
	v, ok := s.guard(handle)
	switch {
	case !s.conn.due:
		if !ok {
			s.conn.dead = true // the state is unknown, and nothing can be said
			s.conn.cut()
		}
	case !v.reply.IsZero():
		s.conn.answer(ansReplyCode, replyText(v.reply))
	case v.discard:
		s.conn.answer(ansDiscard, "")
	default:
		s.conn.answer(ansContinue, "")
	}
	return nil
}

// guard turns a panic into 421, so that neither the process nor the library's logger sees it.
func (s *session) guard(handle func(context.Context) verdict) (v verdict, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.conn.log.Error("panic in a milter handler", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.conn.listener.metrics.failures.WithLabelValues("panic").Inc()
			s.conn.out = s.conn.out[:0] // no edit without the verdict that it belongs to
			s.refused = replyPanic
			v, ok = verdict{reply: replyPanic}, false
		}
	}()
	return handle(s.conn.listener.ctx), true
}

// replyText is a reply as SMFIR_REPLYCODE carries it: lines joined by CRLF, each with code and status; "%" is doubled,
// because both MTAs put the text through a formatter.
func replyText(r message.Reply) string {
	s := strings.TrimSuffix(string(r.AppendTo(nil)), "\r\n")
	return strings.ReplaceAll(s, "%", "%%") + "\x00"
}

// Replies of this package's own. They never say what we are.
var (
	replyPanic      = message.MustReply(421, "4.3.0", "Temporary failure, try again later")
	replyDefer      = message.MustReply(451, "4.3.0", "Temporary failure, try again later")
	replyReconnect  = message.MustReply(421, "4.3.0", "Temporary failure, try again later")
	replyReject     = message.MustReply(554, "5.3.0", "Transaction failed")
	replySender     = message.MustReply(553, "5.1.7", "Sender address is not valid")
	replyRecipient  = message.MustReply(553, "5.1.3", "Recipient address is not valid")
	replyRecipients = message.MustReply(452, "4.5.3", "Too many recipients")
	replyStorage    = message.MustReply(452, "4.3.1", "Insufficient system storage, try again later")
	replyHeaderSize = message.MustReply(552, "5.3.4", "Message header is too large")
)
