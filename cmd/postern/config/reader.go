package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Bounds of lists and texts.
const (
	maxList = 256
	maxText = 1024
)

// reader fills a Config from a document. It has a method for each section.
type reader struct {
	c   *Config
	dir string // of relative paths
}

func (r *reader) root(n yamldoc.Node) {
	c := r.c
	r.section(n, yamldoc.Keys{
		"hostname":     func(n yamldoc.Node) { r.hostname(n, &c.Hostname) },
		"state_dir":    func(n yamldoc.Node) { r.path(n, &c.StateDir) },
		"submission":   r.submission,
		"auth":         r.auth,
		"relay":        r.relay,
		"milter":       r.milter,
		"policy":       r.policy,
		"decision_log": r.decisionLog,
		"admin": func(n yamldoc.Node) {
			r.section(n, yamldoc.Keys{
				"listen":     func(n yamldoc.Node) { r.address(n, &c.Admin.Listen) },
				"public":     func(n yamldoc.Node) { set(&c.Admin.Public)(n.Bool()) },
				"autoconfig": r.autoconfig,
			})
		},
		"log": r.log,
	})
}

func (r *reader) submission(n yamldoc.Node) {
	s := &r.c.Submission
	r.section(n, yamldoc.Keys{
		"listen":     func(n yamldoc.Node) { r.listeners(n, &s.Listen) },
		"listen_tls": func(n yamldoc.Node) { r.listeners(n, &s.ListenTLS) },
		"mechanisms": func(n yamldoc.Node) { r.mechanisms(n, "") },
		"tls": func(n yamldoc.Node) {
			r.section(n, yamldoc.Keys{
				"cert":            func(n yamldoc.Node) { r.path(n, &s.TLS.Cert) },
				"key":             func(n yamldoc.Node) { r.path(n, &s.TLS.Key) },
				"client_ca":       func(n yamldoc.Node) { r.path(n, &s.TLS.ClientCA) },
				"session_tickets": func(n yamldoc.Node) { set(&s.TLS.SessionTickets)(n.Bool()) },
			})
		},
		"proxy_protocol": func(n yamldoc.Node) {
			r.section(n, yamldoc.Keys{"trusted": func(n yamldoc.Node) {
				r.prefixes(n, &s.ProxyProtocol, "name the networks of the proxies, because a trusted client may claim any address")
			}})
		},
		"limits":           func(n yamldoc.Node) { r.limits(n, &s.Limits) },
		"received":         func(n yamldoc.Node) { r.received(n, &s.Received) },
		"lenient_commands": func(n yamldoc.Node) { set(&s.LenientCommands)(n.Bool()) },
		"extensions": func(n yamldoc.Node) {
			r.section(n, yamldoc.Keys{
				"8bitmime": r.extension,
				"chunking": r.extension,
				"dsn":      r.extension,
				"limits":   r.extension,
				"old_auth": r.extension,
				"smtputf8": r.extension,
			})
		},
		"require_auth":  func(n yamldoc.Node) { set(&s.RequireAuth)(n.Bool()) },
		"auth_limits":   r.authLimits,
		"recent_logins": r.recentLogins,
	})
}

// extension reads whether the extension that the last part of the key names is offered.
func (r *reader) extension(n yamldoc.Node) {
	word, ok := n.Choice("auto", "on", "off")
	if !ok || word == "auto" {
		return
	}
	s := &r.c.Submission
	if s.Extensions == nil {
		s.Extensions = map[string]bool{}
	}
	key := n.Key()
	s.Extensions[strings.ToUpper(key[strings.LastIndexByte(key, '.')+1:])] = word == "on"
}

func (r *reader) auth(n yamldoc.Node) {
	r.mark(n)
	n.List(false, func(i int, n yamldoc.Node) {
		a := Auth{Scram: "auto"}
		if i < maxList {
			r.section(n, yamldoc.Keys{
				"file":        func(n yamldoc.Node) { r.path(n, &a.File) },
				"scram":       func(n yamldoc.Node) { set(&a.Scram)(n.Choice("auto", "on", "off")) },
				"oauth":       func(n yamldoc.Node) { r.oauth(n, &a) },
				"dovecot":     func(n yamldoc.Node) { a.Dovecot = new(Dovecot); r.dovecot(n, a.Dovecot) },
				"ldap":        func(n yamldoc.Node) { a.LDAP = new(LDAP); r.ldap(n, a.LDAP) },
				"radius":      func(n yamldoc.Node) { a.RADIUS = new(RADIUS); r.radius(n, a.RADIUS) },
				"certificate": func(n yamldoc.Node) { r.certificate(n, &a) },
			})
		}
		switch kinds := a.kinds(); {
		case r.failed(n):
		case kinds == 0:
			n.Fail("names no backend", "write - file: users.yaml")
		case kinds > 1:
			n.Fail("names several backends", "write each as an element of its own, in the order in which to ask them")
		case a.File == "" && r.c.Written(n.Key()+".scram"):
			n.Fail("scram is only for a users file", "remove it")
		}
		if len(r.c.Auth) < maxList {
			r.c.Auth = append(r.c.Auth, a)
		}
	})
}

// kinds returns how many backends are set.
func (a Auth) kinds() (n int) {
	for _, set := range []bool{a.File != "", a.OAuth != nil, a.Certificate != nil, a.Dovecot != nil, a.LDAP != nil, a.RADIUS != nil} {
		if set {
			n++
		}
	}
	return n
}

func (r *reader) milter(n yamldoc.Node) {
	r.section(n, yamldoc.Keys{"limits": r.milterLimits, "listen": func(n yamldoc.Node) {
		n.List(true, func(i int, n yamldoc.Node) {
			if i >= maxList {
				return
			}
			l := MilterListener{Mode: 0o660}
			// Findings about a single value have no number in their key, but the key in at always has one.
			r.c.at[milterKey(i)] = n.Pos()
			if !n.IsMap() {
				r.milterAddress(n, &l)
			} else {
				r.milterListener(n, i, &l)
			}
			r.c.Milter.Listen = append(r.c.Milter.Listen, l)
		})
	}})
}

func milterKey(i int) string { return fmt.Sprintf("milter.listen[%d]", i) }

func (r *reader) milterListener(n yamldoc.Node, i int, l *MilterListener) {
	n.Map(yamldoc.Keys{
		"address": func(n yamldoc.Node) { r.milterAddress(n, l) },
		"name":    func(n yamldoc.Node) { set(&l.Name)(n.Text(255)) },
		"mode":    func(n yamldoc.Node) { r.mode(n, l) },
		"group":   func(n yamldoc.Node) { set(&l.Group)(n.Text(255)) },
		"on_error": func(n yamldoc.Node) {
			r.c.at[milterKey(i)+".on_error"] = n.Pos()
			r.verdict(n, &l.OnError)
		},
	})
	if l.Address == "" && !r.failed(n) {
		n.Fail("has no address", "add address: unix:/run/postern/milter.sock or address: tcp:127.0.0.1:8891")
	}
}

// failed reports whether there is already a finding in n.
func (r *reader) failed(n yamldoc.Node) bool {
	for _, f := range r.c.doc.Findings() {
		if strings.HasPrefix(f.Key, n.Key()) {
			return true
		}
	}
	return false
}

func (r *reader) policy(n yamldoc.Node) {
	p := &r.c.Policy
	r.section(n, yamldoc.Keys{
		"bundle":   func(n yamldoc.Node) { r.bundle(n, &p.Bundle) },
		"data":     func(n yamldoc.Node) { r.list(n, func(n yamldoc.Node, s string) { p.Data = append(p.Data, r.join(s)) }) },
		"on_error": func(n yamldoc.Node) { r.verdict(n, &p.OnError) },
		"timeout":  func(n yamldoc.Node) { set(&p.Timeout)(n.Duration(time.Millisecond, 10*time.Second)) },
		"max_wait": func(n yamldoc.Node) { set(&p.MaxWait)(n.Duration(100*time.Millisecond, 15*time.Second)) },
		"allow_builtins": func(n yamldoc.Node) {
			r.list(n, func(_ yamldoc.Node, s string) { p.AllowBuiltins = append(p.AllowBuiltins, s) })
		},
		"shadow":       r.shadow,
		"canary":       r.canary,
		"poll":         func(n yamldoc.Node) { set(&p.Poll)(n.Duration(time.Second, 24*time.Hour)) },
		"tests":        func(n yamldoc.Node) { set(&p.Tests)(n.Choice("required", "off")) },
		"test_timeout": func(n yamldoc.Node) { set(&p.TestTimeout)(n.Duration(time.Second, 10*time.Minute)) },
		"verify":       r.verify,
		"token_file":   func(n yamldoc.Node) { r.path(n, &p.TokenFile) },
		"username":     func(n yamldoc.Node) { set(&p.Username)(n.Text(255)) },
		"ca":           func(n yamldoc.Node) { r.path(n, &p.CA) },
		"client_cert":  func(n yamldoc.Node) { r.path(n, &p.ClientCert) },
		"client_key":   func(n yamldoc.Node) { r.path(n, &p.ClientKey) },
		"insecure":     func(n yamldoc.Node) { set(&p.Insecure)(n.Bool()) },
	})
}

func (r *reader) verify(n yamldoc.Node) {
	v := &r.c.Policy.Verify
	r.section(n, yamldoc.Keys{
		"keys": func(n yamldoc.Node) {
			n.Each(func(id string, n yamldoc.Node) {
				if len(v.Keys) >= maxList {
					n.Fail(fmt.Sprintf("there are more than %d keys", maxList), "remove some")
					return
				}
				key := VerifyKey{Algorithm: "RS256"}
				r.section(n, yamldoc.Keys{
					"file":      func(n yamldoc.Node) { r.path(n, &key.File) },
					"algorithm": func(n yamldoc.Node) { set(&key.Algorithm)(n.Choice(algorithms()...)) },
				})
				if key.File == "" && !r.failed(n) {
					n.Fail("has no file", "write file: pub.pem")
				}
				if v.Keys == nil {
					v.Keys = map[string]VerifyKey{}
				}
				v.Keys[id] = key
			})
			if len(v.Keys) == 0 && !r.failed(n) {
				n.Fail("there is no key", "write keys: {release: {file: pub.pem}}, or remove verify")
			}
		},
		"scope": func(n yamldoc.Node) { set(&v.Scope)(n.Text(255)) },
		"exclude": func(n yamldoc.Node) {
			r.list(n, func(n yamldoc.Node, s string) {
				if _, err := path.Match(s, ""); err != nil {
					n.Fail(fmt.Sprintf("%q is not a pattern", s), "write it like README.md or docs/*")
				}
				v.Exclude = append(v.Exclude, s)
			})
		},
	})
	if len(v.Keys) == 0 && !r.failed(n) {
		n.Fail("there are no keys, so nothing is verified", "add keys: {release: {file: pub.pem}}")
	}
}

func algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512"}
}

func (r *reader) decisionLog(n yamldoc.Node) {
	d := &r.c.DecisionLog
	r.section(n, yamldoc.Keys{
		"file":     func(n yamldoc.Node) { r.path(n, &d.File) },
		"strict":   func(n yamldoc.Node) { set(&d.Strict)(n.Bool()) },
		"input":    func(n yamldoc.Node) { set(&d.Input)(n.Choice("read", "full")) },
		"sync":     func(n yamldoc.Node) { set(&d.Sync)(n.Choice("none", "interval", "each")) },
		"max_line": func(n yamldoc.Node) { set(&d.MaxLine)(n.Size(decisionlog.MinLine, decisionlog.LongestLine)) },
		"rotate": func(n yamldoc.Node) {
			if !n.IsMap() && !n.Empty() {
				if _, ok := n.Choice("off"); ok {
					d.Rotate = DecisionRotate{}
				}
				return
			}
			r.section(n, yamldoc.Keys{
				"size":     func(n yamldoc.Node) { set(&d.Rotate.Size)(n.Size(64<<10, 1<<40)) },
				"age":      func(n yamldoc.Node) { set(&d.Rotate.Age)(n.Duration(time.Minute, 366*24*time.Hour)) },
				"keep":     func(n yamldoc.Node) { set(&d.Rotate.Keep)(n.Int(1, 100_000)) },
				"compress": func(n yamldoc.Node) { set(&d.Rotate.Compress)(n.Bool()) },
			})
		},
		"mask":   func(n yamldoc.Node) { r.decisionMask(n, &d.Mask) },
		"upload": func(n yamldoc.Node) { r.decisionUpload(n, &d.Upload) },
		"labels": func(n yamldoc.Node) { r.labels(n, &d.Labels) },
	})
}

func (r *reader) decisionMask(n yamldoc.Node, m *DecisionMask) {
	r.section(n, yamldoc.Keys{
		"addresses": func(n yamldoc.Node) { set(&m.Addresses)(n.Choice("plain", "hash", "domain")) },
		"subject":   func(n yamldoc.Node) { set(&m.Subject)(n.Choice("keep", "erase")) },
		"client_ip": func(n yamldoc.Node) { set(&m.ClientIP)(n.Choice("keep", "hash", "network")) },
		"key_file":  func(n yamldoc.Node) { r.path(n, &m.KeyFile) },
		"headers": func(n yamldoc.Node) {
			r.section(n, yamldoc.Keys{
				"keep":  func(n yamldoc.Node) { r.fieldNames(n, &m.KeepHeaders) },
				"erase": func(n yamldoc.Node) { r.fieldNames(n, &m.EraseHeaders) },
			})
		},
	})
}

func (r *reader) decisionUpload(n yamldoc.Node, u *DecisionUpload) {
	r.section(n, yamldoc.Keys{
		"url":        func(n yamldoc.Node) { r.serviceURL(n, &u.URL) },
		"token_file": func(n yamldoc.Node) { r.path(n, &u.TokenFile) },
		"ca":         func(n yamldoc.Node) { r.path(n, &u.CA) },
		"buffer":     func(n yamldoc.Node) { set(&u.Buffer)(n.Size(64<<10, 1<<30)) },
		"batch":      func(n yamldoc.Node) { set(&u.Batch)(n.Size(1<<10, 64<<20)) },
		"interval":   func(n yamldoc.Node) { set(&u.Interval)(n.Duration(100*time.Millisecond, time.Hour)) },
		"timeout":    func(n yamldoc.Node) { set(&u.Timeout)(n.Duration(time.Second, 10*time.Minute)) },
	})
	if u.URL == "" && !r.failed(n) {
		n.Fail("has no url", "add url: https://logs.example.com, to which /logs is added")
	}
}

func (r *reader) log(n yamldoc.Node) {
	l := &r.c.Log
	r.section(n, yamldoc.Keys{
		"level": func(n yamldoc.Node) {
			if s, ok := n.Choice("debug", "info", "warn", "error"); ok {
				var level slog.Level
				if level.UnmarshalText([]byte(s)) == nil {
					l.Level = level
				}
			}
		},
		"format": func(n yamldoc.Node) { set(&l.Format)(n.Choice("auto", "text", "json")) },
	})
}

// section reads a mapping and records the places of its keys.
func (r *reader) section(n yamldoc.Node, keys yamldoc.Keys) {
	r.mark(n)
	for name, read := range keys {
		keys[name] = func(n yamldoc.Node) { r.mark(n); read(n) }
	}
	n.Map(keys)
}

func (r *reader) mark(n yamldoc.Node) {
	if n.Key() != "" {
		r.c.at[n.Key()] = n.Pos()
	}
}

// list reads a list of texts, or a single text.
func (r *reader) list(n yamldoc.Node, add func(yamldoc.Node, string)) {
	n.List(true, func(i int, n yamldoc.Node) {
		r.mark(n)
		if i == maxList {
			n.Fail(fmt.Sprintf("the list has more than %d values", maxList), "remove some")
		}
		if s, ok := n.Text(maxText); ok && i < maxList {
			add(n, s)
		}
	})
}

func (r *reader) path(n yamldoc.Node, to *string) {
	if s, ok := n.Text(maxText); ok {
		*to = r.join(s)
	}
}

func (r *reader) join(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(r.dir, p)
}

func (r *reader) verdict(n yamldoc.Node, to *string) {
	set(to)(n.Choice("defer", "reject", "accept"))
}

func (r *reader) prefixes(n yamldoc.Node, to *[]netip.Prefix, everyAddress string) {
	r.list(n, func(n yamldoc.Node, s string) {
		p, err := netaddr.ParseNetwork(s)
		switch {
		case err != nil:
			n.Fail(fmt.Sprintf("%q is not a network", s), "write an address or a network: 192.0.2.7, 10.0.0.0/8, 2001:db8::/32")
		case p.Bits() == 0:
			n.Fail(fmt.Sprintf("%s is every address", s), everyAddress)
		case p.Masked() != p:
			n.Fail(fmt.Sprintf("%s has bits beyond its mask", s), "write "+p.Masked().String())
		default:
			*to = append(*to, p)
		}
	})
}

// set returns a function that stores a value if it is ok.
func set[T any](to *T) func(T, bool) {
	return func(v T, ok bool) {
		if ok {
			*to = v
		}
	}
}
