package milter

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/spelling"
	"github.com/postern-mail/postern/milter/wire"
)

// connection is what is known about the mail server and its present client.
type connection struct {
	*settings
	wire   *wire.Conn
	log    *slog.Logger // names the listener and Postfix's or Sendmail's daemon
	client engine.Client
}

// setFacts sets the facts of t that come from the mail server's macros, for a stage.
func (c *connection) setFacts(t *engine.Transaction, stage engine.Stage) {
	t.Stage, t.Now, t.Failure = stage, c.clock(), c.Failure
	if id := c.wire.Macro("i"); validID(id) {
		t.ID = id
	}
	t.Server = engine.Server{Hostname: c.serverName(), Listener: c.Name, Door: "milter"}
	t.Client, t.TLS = c.client, c.tls()
	if stage >= engine.StageMail {
		t.Auth = c.auth()
	}
	if c.simulated() && t.Client.IP.IsLoopback() {
		t.Client = engine.Client{}
	}
	t.Unknown = c.unknown(t)
}

// validID reports whether a queue id may be a transaction id.
func validID(s string) bool {
	return s != "" && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func (c *connection) serverName() string {
	if c.hostname != "" {
		return c.hostname
	}
	return printable(c.wire.Macro("j"))
}

// simulated reports that there is no SMTP client: Postfix takes a message from sendmail(1) through non_smtpd_milters and
// makes up a session from 127.0.0.1. A socket never has port 0, and only in such a session is the queue id known before
// MAIL.
func (c *connection) simulated() bool {
	return c.postfix() && (c.wire.EarlyID() || c.client.Port == 0 && c.client.IP.IsLoopback())
}

// postfix reports that the mail server is Postfix, by its {v}. A server that does not say so is treated like Sendmail.
func (c *connection) postfix() bool { return strings.HasPrefix(c.wire.Macro("v"), "Postfix") }

// clientName is the verified name of the client: "" if the mail server found none, or one that does not resolve to the
// client's address. Postfix writes "unknown" then; Sendmail gives the name all the same and says so in {client_resolve} and
// {_}.
func (c *connection) clientName(host string) string {
	resolve := c.wire.Macro("client_resolve")
	switch {
	case host == "unknown", host == "", strings.HasPrefix(host, "["):
		return ""
	case resolve != "" && resolve != "OK", strings.Contains(c.wire.Macro("_"), "may be forged"):
		return ""
	}
	return printable(strings.ToLower(host))
}

// identity is the login or else the client's address. It selects the transactions of a canary.
func (c *connection) identity() string {
	if a := c.auth(); a != nil {
		return a.Login
	}
	return c.client.IP.String()
}

// tls describes the client's connection to the mail server; nil if it is in the clear or not known.
func (c *connection) tls() *engine.TLS {
	version := c.wire.Macro("tls_version")
	if version == "" {
		return nil
	}
	t := &engine.TLS{Version: tlsVersion(version), Cipher: printable(c.wire.Macro("cipher"))}
	// Sendmail sends the certificate of any client, and in {verify} whether it is trusted. Postfix has no {verify} and sends
	// only trusted certificates. Postfix sends the common name, Sendmail the whole name.
	if v := c.wire.Macro("verify"); v == "OK" || v == "" {
		subject, issuer := distinguished(c.wire.Macro("cert_subject")), distinguished(c.wire.Macro("cert_issuer"))
		if subject != "" {
			t.Client = &engine.Certificate{Subject: subject, Issuer: issuer}
		}
	}
	return t
}

// tlsVersion is "1.3" for "TLSv1.3" and "1.0" for "TLSv1". A protocol other than TLS keeps its name.
func tlsVersion(s string) string {
	v, ok := strings.CutPrefix(s, "TLSv")
	switch {
	case !ok:
		return printable(s)
	case v == "1":
		return "1.0"
	}
	return printable(v)
}

// distinguished is a name from a certificate as RFC 4514 writes it. A bare common name becomes "CN=name", escaped. A name
// in OpenSSL's one-line form ("/C=SE/CN=a") stays unchanged, because it cannot be split with certainty.
func distinguished(s string) string {
	if s == "" || strings.HasPrefix(s, "/") {
		return printable(s)
	}
	var b strings.Builder
	b.WriteString("CN=")
	for i, r := range printable(s) {
		if strings.ContainsRune(`,+"\<>;=`, r) || i == 0 && (r == '#' || r == ' ') || i == len(s)-1 && r == ' ' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// auth is the login that the client has proved: {auth_authen} and nothing else. {auth_author} is only what the client writes
// in MAIL AUTH=. The login has the form that it has at the submission server.
func (c *connection) auth() *engine.Auth {
	login, ok := spelling.Login(c.wire.Macro("auth_authen"))
	if !ok {
		return nil // none, or one that no account has: nobody has logged in
	}
	return &engine.Auth{Login: login, Mechanism: strings.ToUpper(c.wire.Macro("auth_type"))}
}

// unknown names the facts that this mail server did not send, sorted.
func (c *connection) unknown(t *engine.Transaction) []string {
	var u []string
	chosen := c.wire.Terms().ChosenMacros() // a macro that is absent means "no"
	switch {
	case t.Stage < engine.StageMail:
	case t.Auth != nil:
		u = appendBelow(u, "auth.")
	case c.wire.Macro("auth_authen") != "": // a login that no account has
	case c.simulated() || !chosen && c.wire.Macro("auth_type") == "":
		u = append(u, "auth")
	}
	switch {
	case !t.Client.IP.IsValid() && c.simulated():
		u = append(u, "client")
	default:
		u = appendBelow(u, "client.")
		if !t.Client.IP.IsValid() {
			u = append(u, "client.ip")
		}
		if t.Client.Port == 0 {
			u = append(u, "client.port")
		}
	}
	switch {
	case t.TLS != nil:
		u = appendBelow(u, "tls.")
	case c.simulated(), !chosen:
		u = append(u, "tls")
	}
	if t.Message != nil {
		if t.Message.Size < 0 {
			u = append(u, "message.size")
		}
		if t.Message.Body == nil {
			u = append(u, "message.body")
		}
	}
	slices.Sort(u)
	return u
}

// appendBelow appends the facts below prefix that no mail server sends.
func appendBelow(u []string, prefix string) []string {
	for _, path := range contract.NeverKnown("milter") {
		if strings.HasPrefix(path, prefix) {
			u = append(u, path)
		}
	}
	return u
}

// parsePath reads a path as mail servers send it. Sendmail passes on a path without brackets if its client wrote none. The mail server has taken
// the address already, so one that cannot be read is a fact for policy, and the error is for the log.
func parsePath(s string) (message.Path, error) {
	whole := s
	if !strings.HasPrefix(s, "<") {
		s = "<" + s + ">"
	}
	p, rest, err := message.ParsePath(s, true)
	if err == nil && rest != "" {
		err = fmt.Errorf("%q after the address", rest)
	}
	if err != nil {
		return message.Path{Unreadable: printable(whole)}, err
	}
	return p, nil
}

// parameters reads ESMTP parameters (RFC 5321 §4.1.1.11). The last one of a name counts, as it does for mail servers.
func parameters(args []string) message.Params {
	p := make(message.Params, len(args))
	for _, a := range args {
		if k, v, _ := strings.Cut(a, "="); k != "" {
			p[strings.ToUpper(k)] = v
		}
	}
	return p
}

// maxPrintable bounds text from a mail server in facts and logs, in bytes.
const maxPrintable = 1024

// printable makes text from a mail server fit for facts and logs: no control characters, valid UTF-8, bounded.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxPrintable {
		s = strings.ToValidUTF8(s[:maxPrintable], "")
	}
	return s
}
