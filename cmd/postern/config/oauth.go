package config

import (
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd/auth"
)

// MechanismsAt returns the mechanisms that may be used at an address, or none if all may be used.
func (s Submission) MechanismsAt(address string) []string {
	if list, ok := s.Mechanisms[address]; ok {
		return list
	}
	return s.Mechanisms[""]
}

// PinsCertificates reports whether client certificates that no authority has signed may be pinned.
func (c *Config) PinsCertificates() bool {
	for _, a := range c.Auth {
		if a.Certificate != nil && a.Certificate.Map != "" {
			return true
		}
	}
	return false
}

func (r *reader) oauth(n yamldoc.Node, a *Auth) {
	o := &OAuth{Login: "email", Timeout: 5 * time.Second}
	a.OAuth = o
	texts := func(to *[]string) func(yamldoc.Node) {
		return func(n yamldoc.Node) { r.list(n, func(_ yamldoc.Node, s string) { *to = append(*to, s) }) }
	}
	r.section(n, yamldoc.Keys{
		"issuer":             func(n yamldoc.Node) { set(&o.Issuer)(n.Text(maxText)) },
		"keys":               func(n yamldoc.Node) { r.keySet(n, &o.Keys) },
		"audience":           texts(&o.Audience),
		"algorithms":         func(n yamldoc.Node) { r.algorithms(n, &o.Algorithms) },
		"introspection":      func(n yamldoc.Node) { r.provider(n, &o.Introspection) },
		"client_id":          func(n yamldoc.Node) { set(&o.ClientID)(n.Text(maxText)) },
		"client_secret_file": func(n yamldoc.Node) { r.path(n, &o.ClientSecretFile) },
		"scope":              func(n yamldoc.Node) { set(&o.Scope)(n.Text(255)) },
		"login":              func(n yamldoc.Node) { set(&o.Login)(n.Text(255)) },
		"groups":             func(n yamldoc.Node) { set(&o.Groups)(n.Text(255)) },
		"attributes":         texts(&o.Attributes),
		"discovery":          func(n yamldoc.Node) { r.provider(n, &o.Discovery) },
		"ca":                 func(n yamldoc.Node) { r.path(n, &o.CA) },
		"timeout":            func(n yamldoc.Node) { set(&o.Timeout)(n.Duration(100*time.Millisecond, time.Minute)) },
	})
	if !r.failed(n) {
		checkOAuth(n, o)
	}
}

func checkOAuth(n yamldoc.Node, o *OAuth) {
	switch {
	case o.Keys == "" && o.Introspection == "":
		n.Fail("has neither keys nor introspection", "write keys: https://idp.example.com/keys for tokens that are JWTs, or introspection: and a URL for other tokens")
	case o.Keys != "" && o.Introspection != "":
		n.Fail("has both keys and introspection", "write two elements, in the order in which to ask them")
	case o.Keys != "" && (o.Issuer == "" || len(o.Audience) == 0):
		n.Fail("keys needs issuer and audience", "write both, because without them a token for another service would be accepted")
	case o.Introspection != "" && (o.ClientID == "" || o.ClientSecretFile == ""):
		n.Fail("introspection needs client_id and client_secret_file", "write both; the provider assigns them")
	case o.Keys != "" && (o.ClientID != "" || o.ClientSecretFile != ""):
		n.Fail("client_id and client_secret_file are only for introspection", "remove them")
	}
}

func (r *reader) keySet(n yamldoc.Node, to *string) {
	s, ok := n.Text(maxText)
	switch {
	case !ok:
	case strings.Contains(s, "://"):
		r.provider(n, to)
	default:
		*to = r.join(s)
	}
}

func (r *reader) provider(n yamldoc.Node, to *string) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	if err := auth.CheckProviderURL(s); err != nil {
		problem, mend, _ := strings.Cut(err.Error(), "; ")
		n.Fail(problem, mend)
		return
	}
	*to = s
}

func (r *reader) algorithms(n yamldoc.Node, to *[]string) {
	n.List(true, func(_ int, n yamldoc.Node) {
		if s, ok := n.Choice(auth.Algorithms...); ok {
			*to = append(*to, s)
		}
	})
}

func (r *reader) certificate(n yamldoc.Node, a *Auth) {
	c := &Certificate{}
	a.Certificate = c
	r.section(n, yamldoc.Keys{
		"map": func(n yamldoc.Node) { r.path(n, &c.Map) },
		"san": func(n yamldoc.Node) {
			n.List(true, func(_ int, n yamldoc.Node) {
				if s, ok := n.Choice("email", "dns", "uri"); ok {
					c.SAN = append(c.SAN, s)
				}
			})
		},
		"crl": func(n yamldoc.Node) { r.path(n, &c.CRL) },
	})
	if c.Map == "" && len(c.SAN) == 0 && !r.failed(n) {
		n.Fail("has neither map nor san", "write san: email if the mail address in a certificate is the login, or map: and the path of a certificate map")
	}
}
