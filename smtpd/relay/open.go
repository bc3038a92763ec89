package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/postern-mail/postern/internal/netaddr"
)

// Open makes the Hop for the targets; several become a Failover in that order. Forms:
//
//	smtp://host[:port]     port 25; STARTTLS as Options say
//	smtps://host[:port]    port 465; TLS from the first octet
//	lmtp://host[:port]     port 24; STARTTLS as Options say
//	lmtp+unix:///path      LMTP over a unix socket
//	maildir:path           a Maildir, made if it does not exist; path relative to the working directory or absolute
//
// Errors name the target and say what to write instead. No connection is opened.
func Open(o Options, targets ...string) (Hop, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	hops := make([]Hop, 0, len(targets))
	for _, target := range targets {
		h, err := hopFor(target, o)
		if err != nil {
			return nil, fmt.Errorf("next hop %q: %w", shown(target), err)
		}
		hops = append(hops, h)
	}
	switch len(hops) {
	case 0:
		return nil, errors.New("no next hop: name one, such as smtp://127.0.0.1:10026 or maildir:outbox")
	case 1:
		return hops[0], nil
	}
	return NewFailover(hops, o), nil
}

// shown is the target for an error, without a password that was written into it by mistake.
func shown(target string) string {
	scheme, rest, _ := strings.Cut(target, ":")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 && scheme != "maildir" {
		return scheme + "://...@" + rest[at+1:]
	}
	return target
}

func (o Options) check() error {
	if strings.ContainsFunc(o.Hello, func(r rune) bool { return r <= ' ' || r > '~' }) || len(o.Hello) > 255 {
		return fmt.Errorf("next hop: the name %q for EHLO must be a host name in ASCII", o.Hello)
	}
	if strings.Contains(o.Login+o.Password, "\x00") {
		return errors.New("next hop: the login or password has a NUL in it")
	}
	if o.StartTLS > StartTLSRequired {
		return fmt.Errorf("next hop: no such STARTTLS mode: %d", o.StartTLS)
	}
	return nil
}

const schemes = "want smtp://host:port, smtps://host:port, lmtp://host:port, lmtp+unix:///path or maildir:path"

// hopFor makes the Hop for one target.
func hopFor(target string, o Options) (Hop, error) {
	scheme, rest, _ := strings.Cut(target, ":")
	if scheme == "maildir" {
		path := rest
		if strings.HasPrefix(path, "//") {
			path = "/" + strings.TrimLeft(path, "/")
		}
		return NewMaildir(path, o)
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, errors.New("not a URL; " + schemes) // without err, which quotes the URL and so perhaps a password
	}
	if u.User != nil {
		return nil, errors.New("login and password do not go into the URL but into their own settings")
	}
	if u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return nil, errors.New(schemes)
	}
	if scheme == "lmtp+unix" {
		if u.Host != "" || u.Path == "" {
			return nil, errors.New("want lmtp+unix:///path, with three slashes")
		}
		h := newSMTP(target, "unix", u.Path, "localhost", o)
		h.lmtp = true
		return h, nil
	}
	port, known := map[string]string{"smtp": "25", "smtps": "465", "lmtp": "24"}[scheme]
	if !known {
		return nil, errors.New(schemes)
	}
	if u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("want %s://host:port", scheme)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	h := newSMTP(target, "tcp", net.JoinHostPort(u.Hostname(), port), u.Hostname(), o)
	h.implicitTLS, h.lmtp = scheme == "smtps", scheme == "lmtp"
	return h, h.checkAuth()
}

// checkAuth refuses, when the program starts, a password that could never be sent.
func (h *SMTP) checkAuth() error {
	_, err := netip.ParseAddr(h.host)
	if h.o.Login != "" && !h.implicitTLS && h.o.StartTLS == StartTLSOff && err == nil && !netaddr.IsLoopback(h.host) {
		return errors.New("a login needs TLS to this address: use smtps:// or do not set starttls to off")
	}
	return nil
}
