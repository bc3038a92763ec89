package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/internal/yamldoc"
)

func (r *reader) hostname(n yamldoc.Node, to *string) {
	s, ok := n.Text(253)
	if !ok {
		return
	}
	for _, label := range strings.Split(s, ".") {
		letters := strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-")
		if label == "" || len(label) > 63 || letters != "" || label[0] == '-' || label[len(label)-1] == '-' {
			n.Fail(fmt.Sprintf("%q is not a host name", s), "write letters, digits and hyphens between dots, as in mail.example.com")
			return
		}
	}
	*to = strings.ToLower(s)
}

// address reads host:port, :port or systemd:name.
func (r *reader) address(n yamldoc.Node, to *string) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	if name, is := strings.CutPrefix(s, systemd.Prefix); is {
		if r.fdName(n, name) {
			*to = s
		}
		return
	}
	if problem := badAddress(s, true); problem != "" {
		n.Fail(fmt.Sprintf("%q: %s", s, problem), `write host:port, such as ":587", "127.0.0.1:2587" or "[::1]:2587"`)
		return
	}
	*to = s
}

// fdName reports whether a socket unit can give a socket that name (systemd.socket(5), FileDescriptorName=).
func (r *reader) fdName(n yamldoc.Node, name string) bool {
	bad := strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' })
	if name == "" || len(name) > 255 || bad {
		n.Fail(fmt.Sprintf("%q is not the name of a socket", name), "write the FileDescriptorName= of its socket unit, as in systemd:submission")
		return false
	}
	return true
}

// listeners reads addresses. Each is a text, or a mapping with an address and its own mechanisms.
func (r *reader) listeners(n yamldoc.Node, to *[]string) {
	r.mark(n)
	n.List(true, func(i int, n yamldoc.Node) {
		r.mark(n)
		var a string
		if n.IsMap() {
			r.listener(n, &a)
		} else {
			r.address(n, &a)
		}
		if a != "" && i < maxList {
			*to = append(*to, a)
		}
	})
}

func (r *reader) listener(n yamldoc.Node, a *string) {
	var mechanisms yamldoc.Node
	restricted := false
	r.section(n, yamldoc.Keys{
		"address":    func(n yamldoc.Node) { r.address(n, a) },
		"mechanisms": func(n yamldoc.Node) { mechanisms, restricted = n, true },
	})
	if *a == "" && !r.failed(n) {
		n.Fail("has no address", `add address: ":587"`)
	}
	if restricted && *a != "" {
		r.mechanisms(mechanisms, *a)
	}
}

// mechanisms reads the mechanisms that may be used at an address.
func (r *reader) mechanisms(n yamldoc.Node, address string) {
	known := []string{"PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL"}
	var list []string
	n.List(true, func(_ int, n yamldoc.Node) {
		if s, ok := n.Choice(known...); ok {
			list = append(list, s)
		}
	})
	if len(list) == 0 && !r.failed(n) {
		n.Fail("names no mechanism", "write [PLAIN], or remove the key to offer all mechanisms of the backends")
		return
	}
	if r.c.Submission.Mechanisms == nil {
		r.c.Submission.Mechanisms = map[string][]string{}
	}
	r.c.Submission.Mechanisms[address] = list
}

// badAddress returns what is wrong with host:port, or "".
func badAddress(s string, anyHost bool) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if _, perr := strconv.Atoi(s); perr == nil {
			return "a colon is missing before the port"
		}
		return "it is not host:port"
	}
	if host == "" && !anyHost {
		return "the host is missing"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "the port is not a number from 0 to 65535"
	}
	if strings.ContainsAny(host, "/@ \t*") {
		return "the host has a character that is not allowed"
	}
	return ""
}

func (r *reader) received(n yamldoc.Node, to *string) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	// A single word can only be meant as one of the two names.
	if s != "full" && s != "private" && !strings.ContainsAny(s, " {%$") {
		n.Choice("full", "private")
		return
	}
	*to = s
}

func (r *reader) bundle(n yamldoc.Node, to *string) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	scheme, _, remote := strings.Cut(s, "://")
	switch {
	case remote && scheme == "file":
		n.Fail(fmt.Sprintf("%q is a URL", s), "write the path alone")
	case remote:
		*to = s // Validate checks it, because that depends on insecure
	default:
		*to = r.join(s)
	}
}

// maxSocket is how long the path of a unix socket may be (unix(7): sun_path without its NUL).
const maxSocket = 107

const milterMend = "write unix:/run/postern/milter.sock, tcp:127.0.0.1:8891 or systemd:milter"

func (r *reader) milterAddress(n yamldoc.Node, l *MilterListener) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	network, address, _ := strings.Cut(s, ":")
	switch network {
	case "unix", "local":
		if address == "" || len(r.join(address)) > maxSocket {
			n.Fail(fmt.Sprintf("the path of the socket is missing, or longer than %d bytes", maxSocket), milterMend)
			return
		}
		l.Network, l.Address = "unix", r.join(address)
	case "tcp":
		if problem := badAddress(address, true); problem != "" {
			n.Fail(fmt.Sprintf("%q: %s", s, problem), milterMend)
			return
		}
		l.Network, l.Address = "tcp", address
	case "systemd":
		if !r.fdName(n, address) {
			return
		}
		l.Network, l.Address = "systemd", address
	case "inet", "inet6":
		port, host, _ := strings.Cut(address, "@")
		n.Fail(fmt.Sprintf("%q is Sendmail's notation", s), "write tcp:"+net.JoinHostPort(host, port))
		return
	default:
		n.Fail(fmt.Sprintf("%q is neither a unix nor a tcp socket", s), milterMend)
		return
	}
	if l.Name == "" {
		l.Name = s
	}
}

func (r *reader) mode(n yamldoc.Node, l *MilterListener) {
	s, ok := n.Text(6)
	if !ok {
		return
	}
	m, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || m > 0o777 || m&0o600 != 0o600 {
		n.Fail(fmt.Sprintf("%q is not a mode for a socket", s), `write it in octal, with 6 for the owner: "0660"`)
		return
	}
	l.Mode = os.FileMode(m)
}

func (r *reader) relay(n yamldoc.Node) {
	r.section(n, yamldoc.Keys{
		"to": func(n yamldoc.Node) {
			n.List(true, func(i int, n yamldoc.Node) {
				t := Target{StartTLS: "auto"}
				if i >= maxList {
					n.Fail(fmt.Sprintf("there are more than %d next hops", maxList), "remove some")
					return
				}
				r.mark(n)
				if n.IsMap() {
					r.target(n, &t)
				} else {
					r.url(n, &t)
				}
				if t.URL != "" {
					r.c.Relay.To = append(r.c.Relay.To, t)
					r.rename(n.Key(), targetKey(len(r.c.Relay.To)-1))
				}
			})
		},
		"connections": func(n yamldoc.Node) { set(&r.c.Relay.Connections)(n.Int(1, 100_000)) },
		"timeouts":    r.timeouts,
		"quarantine": func(n yamldoc.Node) {
			if s, ok := n.Text(maxText); ok {
				dir, is := strings.CutPrefix(s, "maildir:")
				if !is || dir == "" || strings.HasPrefix(dir, "//") {
					n.Fail(fmt.Sprintf("%q is not a Maildir", s), "write maildir:quarantine or maildir:/var/spool/postern/quarantine")
					return
				}
				r.c.Relay.Quarantine = r.join(dir)
			}
		},
	})
}

// rename records the places of a key and its subkeys under another key. So a next hop has the key of its index in Relay.To, also if it was
// written without a list or after one that is wrong.
func (r *reader) rename(from, to string) {
	for key, pos := range maps.Clone(r.c.at) {
		if rest, ok := strings.CutPrefix(key, from); ok && (rest == "" || rest[0] == '.') {
			r.c.at[to+rest] = pos
		}
	}
}

func targetKey(i int) string { return fmt.Sprintf("relay.to[%d]", i) }

func (r *reader) target(n yamldoc.Node, t *Target) {
	r.section(n, yamldoc.Keys{
		"url":           func(n yamldoc.Node) { r.url(n, t) },
		"starttls":      func(n yamldoc.Node) { set(&t.StartTLS)(n.Choice("auto", "off", "required")) },
		"ca":            func(n yamldoc.Node) { r.path(n, &t.CA) },
		"server_name":   func(n yamldoc.Node) { r.hostname(n, &t.ServerName) },
		"username":      func(n yamldoc.Node) { set(&t.Username)(n.Text(255)) },
		"password_file": func(n yamldoc.Node) { r.path(n, &t.PasswordFile) },
	})
	if t.URL == "" && !r.failed(n) {
		n.Fail("has no url", "add url: smtp://127.0.0.1:10026")
	}
	if (t.Username == "") != (t.PasswordFile == "") && !r.failed(n) {
		n.Fail("username and password_file go together", "write both, or neither")
	}
}

const urlMend = "write smtp://host:port, smtps://host:port, lmtp://host:port, lmtp+unix:///path or maildir:path"

func (r *reader) url(n yamldoc.Node, t *Target) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	if dir, is := strings.CutPrefix(s, "maildir:"); is {
		if dir == "" || strings.HasPrefix(dir, "//") && !strings.HasPrefix(dir, "///") {
			n.Fail(fmt.Sprintf("%q names no directory", s), "write maildir:outbox or maildir:/var/spool/postern/outbox")
			return
		}
		t.URL = "maildir:" + r.join(dir)
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Opaque != "" {
		n.Fail("this is not the URL of a next hop", urlMend)
		return
	}
	if problem, mend := badURL(u); problem != "" {
		n.Fail(problem, mend)
		return
	}
	t.URL = u.String()
}

// badURL returns what is wrong with the URL of a next hop, and how to mend it. It never quotes what may be a password.
func badURL(u *url.URL) (problem, mend string) {
	ports := map[string]string{"smtp": "25", "smtps": "465", "lmtp": "24"}
	switch {
	case u.User != nil:
		return "the URL has a login in it", "write username: and password_file: next to url:, so that no password is in this file"
	case u.RawQuery != "" || u.Fragment != "":
		return "the URL of a next hop has no ? or #", urlMend
	case u.Scheme == "lmtp+unix":
		if u.Host != "" || len(u.Path) < 2 {
			return "lmtp+unix:// needs an absolute path", "write lmtp+unix:///run/dovecot/lmtp, with three slashes"
		}
		if len(u.Path) > maxSocket {
			return fmt.Sprintf("the path of the socket is longer than %d bytes", maxSocket), "use a shorter path"
		}
		return "", ""
	case ports[u.Scheme] == "":
		return fmt.Sprintf("%s:// is not the scheme of a next hop", u.Scheme), urlMend
	case u.Path != "" && u.Path != "/":
		return fmt.Sprintf("%s:// has a host and a port, but no path", u.Scheme), urlMend
	case u.Hostname() == "":
		return "the host is missing", urlMend
	}
	u.Path = ""
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), ports[u.Scheme])
	}
	if problem := badAddress(u.Host, false); problem != "" {
		return problem, urlMend
	}
	return "", ""
}

// fieldNames reads names of header fields (RFC 5322 section 2.2).
func (r *reader) fieldNames(n yamldoc.Node, to *[]string) {
	r.list(n, func(n yamldoc.Node, s string) {
		if strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }) {
			n.Fail(fmt.Sprintf("%q is not the name of a header field", s), "write it without colon and spaces, like X-Originating-IP")
			return
		}
		*to = append(*to, s)
	})
}

// labels reads a mapping of names to texts.
func (r *reader) labels(n yamldoc.Node, to *map[string]string) {
	r.mark(n)
	*to = map[string]string{}
	n.Each(func(name string, n yamldoc.Node) {
		r.mark(n)
		s, ok := n.Text(maxText)
		switch {
		case !ok:
		case name == "id" || name == "version":
			n.Fail("is a label that postern sets itself", "give it another name")
		case len(*to) == maxList:
			n.Fail(fmt.Sprintf("the list has more than %d values", maxList), "remove some")
		default:
			(*to)[name] = s
		}
	})
}

// serviceURL reads the URL of an HTTP service.
func (r *reader) serviceURL(n yamldoc.Node, to *string) {
	s, ok := n.Text(maxText)
	if !ok {
		return
	}
	const mend = "write https://logs.example.com/v1, to which /logs is added"
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		n.Fail("this is not the URL of an HTTP service", mend)
	case u.User != nil:
		n.Fail("the URL has a login in it", "write token_file: next to url:, so that no secret is in this file")
	case u.RawQuery != "" || u.Fragment != "":
		n.Fail("the URL of a service has no ? or #", mend)
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/logs"):
		n.Fail(fmt.Sprintf("%q ends in /logs, which postern adds", s), "remove /logs from its end")
	default:
		*to = s
	}
}
