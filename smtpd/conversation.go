package smtpd

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/smtpd/relay"
	"github.com/postern-mail/postern/smtpd/wire"
)

var _ wire.Session = (*session)(nil)

// Greet implements wire.Session. It reads the PROXY header, checks the limit of connections, does the handshake of implicit TLS,
// and asks policy of stage connect.
func (s *session) Greet() message.Reply {
	if err := s.findClient(); err != nil {
		return s.noHeader(err)
	}
	from := netaddr.ClientNetwork(s.client.IP)
	if limit := s.srv.table.addFrom(from, &s.limits); limit != "" {
		s.srv.Metrics.connection("per-ip-limit")
		s.hit(limit)
		if s.ln.TLS {
			return message.Reply{}
		}
		return say(421, "4.7.0", "Too many connections from your address")
	}
	s.network = from
	if s.ln.TLS && !s.handshake() {
		return message.Reply{}
	}
	d := s.decide(&engine.Transaction{Stage: engine.StageConnect, ID: s.id})
	switch d.Verdict {
	case engine.Accept, engine.Quarantine, engine.Discard:
		s.srv.Metrics.connection("accepted")
		return say(220, "", s.srv.Hostname+" ESMTP")
	}
	s.srv.Metrics.connection("refused")
	return banner(orFailure(d.Reply))
}

// findClient sets the address of the client: that of the socket, or that which a trusted proxy gives.
func (s *session) findClient() error {
	s.setClient(s.conn.RemoteAddr())
	if !trusted(s.ln.Trusted, s.client.IP) {
		return nil
	}
	client, err := s.conn.ReadProxyHeader(s.limits.Handshake)
	if err == nil && client.IsValid() {
		s.client.IP, s.client.Port = client.Addr().Unmap(), client.Port()
	}
	return err
}

func trusted(nets []netip.Prefix, ip netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(ip.WithZone("")) {
			return true
		}
	}
	return false
}

// noHeader ends a connection whose proxy did not name the client.
func (s *session) noHeader(err error) message.Reply {
	switch {
	case errors.Is(err, wire.ErrStopping) && !s.ln.TLS:
		return replyStopping()
	case errors.Is(err, wire.ErrStopping):
		return message.Reply{}
	case wire.IsTimeout(err):
		s.hit(limitHandshake)
	}
	s.log.Warn("no PROXY header from a trusted proxy", "error", err)
	return message.Reply{}
}

// Command implements wire.Session: it carries out one command.
func (s *session) Command(verb, arg string) message.Reply {
	r := s.carryOut(verb, arg)
	if s.errors > s.limits.Errors {
		s.conn.Send(r)
		s.hit(limitErrors)
		return s.hangUp(say(421, "4.7.0", "Too many errors"))
	}
	return r
}

func (s *session) carryOut(verb, arg string) message.Reply {
	if verb == "" {
		return s.refuse(say(500, "5.5.2", "Syntax error"))
	}
	switch verb {
	case "MAIL", "RCPT", "VRFY", "EHLO", "HELO": // these look themselves
	default:
		if r := onlyPrintable(arg); !r.IsZero() {
			return s.refuse(r)
		}
	}
	switch verb {
	case "EHLO", "HELO":
		return s.EHLO(verb, arg)
	case "STARTTLS":
		return s.STARTTLS(arg)
	case "AUTH":
		return s.AUTH(arg)
	case "MAIL":
		return s.MAIL(arg)
	case "RCPT":
		return s.RCPT(arg)
	case "DATA":
		return s.DATA(arg)
	case "BDAT":
		return s.BDAT(arg)
	case "RSET":
		return s.RSET(arg)
	case "NOOP":
		return s.harmless(say(250, "2.0.0", "Ok"))
	case "VRFY":
		return s.VRFY(arg)
	case "HELP":
		return s.harmless(say(214, "2.0.0", "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT"))
	case "QUIT":
		return s.QUIT(arg)
	case "EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML", "LHLO", "XCLIENT", "XFORWARD", "BURL":
		return s.refuse(say(502, "5.5.1", verb+" is not implemented"))
	case "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS":
		// A browser that was tricked into connecting: nothing that follows is meant for a mail server.
		return s.hangUp(say(421, "4.7.0", "This is a mail server"))
	}
	return s.refuse(say(500, "5.5.2", "Command not recognized"))
}

// maxHello is the length of the longest domain (RFC 1035 §2.3.4).
const maxHello = 255

// EHLO carries out EHLO and HELO (RFC 5321 §4.1.1.1), which end a transaction as RSET does. A name proves nothing, and devices send all sorts of
// them, so anything is taken unless Server.StrictCommands is set (RFC 5321 §4.1.4 forbids to refuse mail because of a wrong name).
func (s *session) EHLO(verb, arg string) message.Reply {
	switch {
	case strings.IndexByte(arg, '\t') >= 0:
		return s.refuse(replySyntax("A TAB is not allowed here"))
	case len(arg) > maxHello:
		return s.refuse(replySyntax(verb + " wants a name of at most " + strconv.Itoa(maxHello) + " octets"))
	case s.srv.StrictCommands && !printable(arg):
		return s.refuse(replySyntax("8-bit characters are not allowed here"))
	case s.srv.StrictCommands && (arg == "" || strings.ContainsAny(arg, " <>()\"\\,;")):
		return s.refuse(replySyntax(verb + " wants a domain name or an address literal"))
	}
	if r := s.countIdle(); !r.IsZero() {
		return r
	}
	s.drop()
	s.greeted, s.helo, s.esmtp = true, cleanHello(arg), verb == "EHLO"
	if !s.esmtp {
		return say(250, "", s.srv.Hostname)
	}
	return s.capabilities()
}

// cleanHello is what a client has said in EHLO, for policy: UTF-8 without what cannot be seen.
func cleanHello(arg string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, strings.Trim(arg, " "))
}

// capabilities is the reply to EHLO.
func (s *session) capabilities() message.Reply {
	way := s.way()
	offered := func(keyword string, kept bool) bool {
		on, set := s.srv.Extensions[keyword]
		return on || !set && kept
	}
	size := s.limits.MessageBytes
	if way.MaxSize > growth {
		size = min(size, way.MaxSize-growth)
	}
	text := s.srv.Hostname + "\nPIPELINING\nSIZE " + strconv.FormatInt(size, 10)
	if s.tls == nil && s.srv.tlsConfig() != nil {
		text += "\nSTARTTLS"
	}
	if m := s.mechanisms(); len(m) > 0 {
		text += "\nAUTH " + strings.Join(m, " ")
		if s.srv.Extensions[extOldAuth] {
			text += "\nAUTH=" + strings.Join(m, " ")
		}
	}
	text += "\nENHANCEDSTATUSCODES"
	eightBit := offered(ext8BitMIME, way.EightBit)
	if eightBit {
		text += "\n" + ext8BitMIME
	}
	if offered(extSMTPUTF8, way.UTF8 && eightBit) { // RFC 6531 §3.1
		text += "\n" + extSMTPUTF8
	}
	if offered(extDSN, way.DSN) {
		text += "\n" + extDSN
	}
	if offered(extChunking, true) {
		text += "\n" + extChunking
	}
	if offered(extLimits, true) {
		text += "\n" + extLimits + s.limits.promise()
	}
	return say(250, "", text)
}

// growth is by how many octets a message may grow here, by Received and the fields that policy adds: a message of the size in EHLO must
// not be too large for the next hop.
const growth = 4 << 10

// Keywords of EHLO that Server.Extensions can switch.
const (
	ext8BitMIME = "8BITMIME"
	extSMTPUTF8 = "SMTPUTF8"
	extDSN      = "DSN"
	extChunking = "CHUNKING"
	extLimits   = "LIMITS"
	extOldAuth  = "OLD_AUTH" // AUTH=, the form of clients from before RFC 2554; off by default
)

// extensionsWait is how long EHLO waits for a next hop that has never been reached.
const extensionsWait = time.Second

// way returns what the next hops can keep of what EHLO promises. If none of them was ever reached, nothing is promised: a client that
// goes by EHLO then sends what every server takes.
func (s *session) way() relay.Extensions {
	ctx, cancel := context.WithTimeout(s.ctx, extensionsWait)
	defer cancel()
	e, _ := s.srv.Relay.Extensions(ctx)
	return e
}

// RSET ends the transaction under way (RFC 5321 §4.1.1.5).
func (s *session) RSET(arg string) message.Reply {
	if arg != "" {
		return s.refuse(replySyntax("RSET takes no argument"))
	}
	if r := s.countIdle(); !r.IsZero() {
		return r
	}
	s.drop()
	return say(250, "2.0.0", "Ok")
}

// VRFY gives no addresses away (RFC 5321 §7.3).
func (s *session) VRFY(arg string) message.Reply {
	if arg == "" {
		return s.refuse(replySyntax("VRFY wants an address"))
	}
	return s.harmless(say(252, "2.0.0", "Cannot verify, but will take a message and try to deliver it"))
}

// QUIT ends the connection (RFC 5321 §4.1.1.10).
func (s *session) QUIT(arg string) message.Reply {
	if arg != "" {
		return s.refuse(replySyntax("QUIT takes no argument"))
	}
	return say(221, "2.0.0", "Bye")
}

// harmless answers a command that changes nothing.
func (s *session) harmless(r message.Reply) message.Reply {
	if last := s.countIdle(); !last.IsZero() {
		return last
	}
	return r
}
