package trial

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// maxText bounds one value of a session, in bytes.
const maxText = 1024

// session reads the section session. It is YAML in the form of the policy input, with client, tls and login as short forms.
func (c *Case) session(s section) {
	doc, err := yamldoc.Parse(c.Name, s.data)
	if err == nil {
		r := &sessionReader{c: c, s: &c.Transaction.Session, given: map[string]yamldoc.Node{}}
		doc.Root().Map(yamldoc.Keys{
			"now": r.now, "id": r.text("id", &c.Transaction.ID), "client": r.client, "ehlo": r.text("client.ehlo", &r.s.Client.EHLO),
			"tls": r.tls, "login": r.text("auth.login", &r.s.Login), "auth": r.auth, "server": r.server,
			"unknown": r.unknown, "on_error": r.onError,
		})
		r.check()
		err = doc.Findings().Err()
	}
	found, _ := err.(yamldoc.Findings)
	for _, f := range found {
		if f.Line > 0 {
			f.Line += s.line - 1
		}
		c.findings = append(c.findings, f)
	}
}

type sessionReader struct {
	c     *Case
	s     *Session
	given map[string]yamldoc.Node // facts that the session gives, by their path in input
}

// text reads one fact.
func (r *sessionReader) text(fact string, into *string) func(yamldoc.Node) {
	return func(n yamldoc.Node) {
		if before, twice := r.given[fact]; twice {
			n.Fail("says what "+before.Key()+" has said", "keep one of the two")
		}
		r.given[fact] = n
		if v, ok := n.Text(maxText); ok {
			*into = v
		}
	}
}

// texts reads a fact that is a list.
func (r *sessionReader) texts(fact string, into *[]string) func(yamldoc.Node) {
	return func(n yamldoc.Node) {
		r.given[fact] = n
		n.List(false, func(_ int, n yamldoc.Node) {
			if v, ok := n.Text(maxText); ok {
				*into = append(*into, v)
			}
		})
	}
}

func (r *sessionReader) now(n yamldoc.Node) {
	v, ok := n.Text(64)
	if !ok {
		return
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		n.Fail("is no time", "write it like 2026-06-01T12:00:00Z")
		return
	}
	r.c.Transaction.Now = t
}

func (r *sessionReader) client(n yamldoc.Node) {
	if !n.IsMap() {
		r.ip(n)
		return
	}
	n.Map(yamldoc.Keys{"ip": r.ip, "name": r.text("client.name", &r.s.Client.Name), "ehlo": r.text("client.ehlo", &r.s.Client.EHLO),
		"port": func(n yamldoc.Node) {
			r.given["client.port"] = n
			if v, ok := n.Int(1, 65535); ok {
				r.s.Client.Port = uint16(v)
			}
		}})
}

func (r *sessionReader) ip(n yamldoc.Node) {
	r.given["client.ip"] = n
	v, ok := n.Text(64)
	if !ok {
		return
	}
	addr, err := netip.ParseAddr(v)
	if err != nil {
		n.Fail("is no IP address", "write it like 192.0.2.10 or 2001:db8::1")
		return
	}
	r.s.Client.IP = addr
}

func (r *sessionReader) tls(n yamldoc.Node) {
	if !n.IsMap() {
		r.version(n)
		return
	}
	cert := &engine.Certificate{}
	n.Map(yamldoc.Keys{"version": r.version, "cipher": r.text("tls.cipher", &r.s.Cipher), "sni": r.text("tls.sni", &r.s.SNI),
		"implicit": func(n yamldoc.Node) { r.s.ImplicitTLS, _ = n.Bool() },
		"certificate": func(n yamldoc.Node) {
			r.given["tls.certificate"], r.s.Certificate = n, cert
			n.Map(yamldoc.Keys{"subject": r.text("tls.certificate.subject", &cert.Subject), "issuer": r.text("tls.certificate.issuer", &cert.Issuer),
				"sans": r.texts("tls.certificate.sans", &cert.SANs), "sha256": r.text("tls.certificate.sha256", &cert.SHA256)})
		}})
	if r.s.TLS == "" {
		n.Fail("has no version", `write version: "1.3", or tls: none for a session in the clear`)
	}
}

func (r *sessionReader) version(n yamldoc.Node) {
	v, ok := n.Choice("1.3", "1.2", "1.1", "1.0", "none")
	if !ok {
		return
	}
	if v == "none" {
		r.s.TLS = ""
		return
	}
	r.given["tls.version"], r.s.TLS = n, v
}

func (r *sessionReader) auth(n yamldoc.Node) {
	n.Map(yamldoc.Keys{"login": r.text("auth.login", &r.s.Login), "mechanism": r.text("auth.mechanism", &r.s.Mechanism),
		"backend": r.text("auth.backend", &r.s.Backend), "authzid": r.text("auth.authzid", &r.s.AuthzID),
		"groups": r.texts("auth.groups", &r.s.Groups),
		"attributes": func(n yamldoc.Node) {
			r.given["auth.attributes"], r.s.Attributes = n, map[string][]string{}
			n.Each(func(name string, n yamldoc.Node) {
				var values []string
				r.texts("auth.attributes."+name, &values)(n)
				r.s.Attributes[name] = values
			})
		}})
	if _, ok := r.given["auth.login"]; !ok {
		n.Fail("has no login", "write login: NAME; without authentication take auth out")
	}
}

func (r *sessionReader) server(n yamldoc.Node) {
	n.Map(yamldoc.Keys{"hostname": r.text("server.hostname", &r.s.Hostname), "listener": r.text("server.listener", &r.s.Listener),
		"door": func(n yamldoc.Node) { r.s.Door, _ = n.Choice("submission", "milter") }})
}

func (r *sessionReader) onError(n yamldoc.Node) {
	v, _ := n.Choice("defer", "reject", "accept")
	r.s.Failure = map[string]engine.Verdict{"reject": engine.Reject, "accept": engine.Accept}[v]
}

// unknown reads which facts the front end could not know.
func (r *sessionReader) unknown(n yamldoc.Node) {
	known := inputPaths()
	n.List(false, func(_ int, n yamldoc.Node) {
		v, ok := n.Text(maxText)
		if !ok {
			return
		}
		if !slices.Contains(known, v) {
			n.Fail("input has no "+v, near(v, known))
			return
		}
		r.s.Unknown = append(r.s.Unknown, v)
	})
	slices.Sort(r.s.Unknown)
}

// check finds facts that are given although the case says that they are unknown.
func (r *sessionReader) check() {
	for _, u := range r.s.Unknown {
		for fact, n := range r.given {
			if fact == u || strings.HasPrefix(fact, u+".") {
				n.Fail("gives "+fact+", which unknown says nobody knows", "keep one of the two")
			}
		}
	}
}

// inputPaths returns the dotted paths of the policy input, from its schema.
func inputPaths() []string {
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	var out []string
	var walk func(prefix string, raw []byte)
	walk = func(prefix string, raw []byte) {
		schema.Properties = nil
		if json.Unmarshal(raw, &schema) != nil {
			return
		}
		for name, p := range schema.Properties {
			out = append(out, prefix+name)
			walk(prefix+name+".", p)
		}
	}
	walk("", contract.InputSchema())
	slices.Sort(out)
	return out
}
