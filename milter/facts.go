package milter

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// refresh brings the facts that come from the MTA's macros up to date for a stage.
func (s *session) refresh(t *engine.Transaction, stage engine.Stage) {
	m := &s.conn.macros
	t.Stage, t.Now, t.Failure = stage, s.conn.server.Clock(), s.conn.listener.config.Failure
	if id := m.get("i"); validID(id) {
		t.ID = id
	}
	t.Server = engine.Server{Hostname: s.hostname(), Listener: s.conn.listener.config.Name, Door: "milter"}
	t.Client, t.TLS = s.client, s.tls()
	if stage >= engine.StageMail {
		t.Auth = s.auth()
	}
	if s.simulated() && t.Client.IP.IsLoopback() {
		t.Client = engine.Client{}
	}
	t.Unknown = s.unknown(t)
}

// validID says whether a queue id may be a transaction id.
func validID(s string) bool {
	return s != "" && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func (s *session) hostname() string {
	if h := s.conn.server.Hostname; h != "" {
		return h
	}
	return printable(s.conn.macros.get("j"))
}

// simulated says that there is no SMTP client: Postfix takes a message from sendmail(1) through non_smtpd_milters and
// makes up a session from 127.0.0.1. A socket never has port 0; and only in such a session is the queue id known before
// MAIL.
func (s *session) simulated() bool {
	return s.postfix() && (s.conn.macros.early || s.client.Port == 0 && s.client.IP.IsLoopback())
}

// postfix says that the MTA is Postfix, by its {v}; whatever does not say so is treated as Sendmail is.
func (s *session) postfix() bool { return strings.HasPrefix(s.conn.macros.get("v"), "Postfix") }

// clientName is the verified name of the client: "" where the MTA found none, or found one that does not lead back.
// Postfix says "unknown" then; Sendmail gives the name all the same and says so in {client_resolve} and {_}.
func (s *session) clientName(host string) string {
	m := &s.conn.macros
	switch {
	case host == "unknown", host == "", strings.HasPrefix(host, "["):
		return ""
	case m.get("client_resolve") != "" && m.get("client_resolve") != "OK", strings.Contains(m.get("_"), "may be forged"):
		return ""
	}
	return printable(strings.ToLower(host))
}

// tls is the state of the client's connection to the MTA.
func (s *session) tls() *engine.TLS {
	m := &s.conn.macros
	version := m.get("tls_version")
	if version == "" {
		return nil
	}
	t := &engine.TLS{Version: tlsVersion(version), Cipher: printable(m.get("cipher"))}
	// Sendmail tells the certificate of any client and in {verify} whether it is good; Postfix, which has no {verify}, tells
	// only trusted ones. Postfix gives the common name, Sendmail the whole name.
	if v := m.get("verify"); v == "OK" || v == "" {
		subject, issuer := distinguished(m.get("cert_subject")), distinguished(m.get("cert_issuer"))
		if subject != "" {
			t.Client = &engine.Certificate{Subject: subject, Issuer: issuer}
		}
	}
	return t
}

// tlsVersion is "1.3" for "TLSv1.3", "1.0" for "TLSv1"; what is not TLS stays as it is.
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
// in OpenSSL's one-line form ("/C=SE/CN=a") stays as the MTA wrote it: it cannot be told apart with certainty.
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

// auth is who the client proved to be: {auth_authen} and nothing else. {auth_author} is what MAIL AUTH= claims.
func (s *session) auth() *engine.Auth {
	m := &s.conn.macros
	login := m.get("auth_authen")
	if login == "" {
		return nil
	}
	return &engine.Auth{Login: login, Mechanism: strings.ToUpper(m.get("auth_type"))}
}

// NeverKnown names the facts that no MTA tells, by their dotted paths in input, sorted.
func NeverKnown() []string { return append(append(untoldAuth(), untoldClient()...), untoldTLS()...) }

func untoldAuth() []string {
	return []string{"auth.attributes", "auth.authzid", "auth.backend", "auth.certificate", "auth.groups", "auth.recent_failures"}
}

func untoldClient() []string {
	return []string{"client.recent_auth_failures", "client.recent_login"}
}

func untoldTLS() []string {
	return []string{"tls.certificate.sans", "tls.certificate.sha256", "tls.sni"}
}

// unknown names the facts that this MTA did not tell, sorted.
func (s *session) unknown(t *engine.Transaction) []string {
	var u []string
	told := s.conn.terms.chosenMacros()
	switch {
	case t.Stage < engine.StageMail:
	case t.Auth != nil:
		u = append(u, untoldAuth()...)
	case s.simulated() || !told && s.conn.macros.get("auth_type") == "":
		u = append(u, "auth")
	}
	switch {
	case !t.Client.IP.IsValid() && s.simulated():
		u = append(u, "client")
	default:
		u = append(u, untoldClient()...)
		if !t.Client.IP.IsValid() {
			u = append(u, "client.ip")
		}
		if t.Client.Port == 0 {
			u = append(u, "client.port")
		}
	}
	switch {
	case t.TLS != nil:
		u = append(u, untoldTLS()...)
	case s.simulated(), !told:
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

// utf8 says whether 8-bit addresses are allowed: MAIL said SMTPUTF8 (RFC 6531 §3.4), or nobody could have said it.
func (s *session) utf8(p message.Params) bool {
	_, ok := p["SMTPUTF8"]
	return ok || s.simulated()
}

// parsePath reads a path as an MTA writes it; Sendmail passes it on without brackets where its client left them out.
func parsePath(s string, eightBit bool) (message.Path, error) {
	if !strings.HasPrefix(s, "<") {
		s = "<" + s + ">"
	}
	p, rest, err := message.ParsePath(s, eightBit)
	if err == nil && rest != "" {
		err = protocolError("%q after the address", rest)
	}
	return p, err
}

// parameters reads ESMTP parameters (RFC 5321 §4.1.1.11); the last of several counts, as it does for the MTA.
func parameters(args []string) message.Params {
	p := make(message.Params, len(args))
	for _, a := range args {
		if k, v, _ := strings.Cut(a, "="); k != "" {
			p[strings.ToUpper(k)] = v
		}
	}
	return p
}

// printable makes what a mail server tells fit for facts and logs: no control characters, valid UTF-8, bounded.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxMacroValue {
		s = strings.ToValidUTF8(s[:maxMacroValue], "")
	}
	return s
}
