package postfix

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/netaddr"
)

// milterRef is an element of smtpd_milters.
type milterRef struct {
	address string
	options map[string]string
}

var listItem = regexp.MustCompile(`\{[^}]*\}|[^\s,]+`)

// split reads a list of milters: addresses, or "{ address, name=value, ... }" (since Postfix 3.0).
func split(value string) []milterRef {
	var out []milterRef
	for _, item := range listItem.FindAllString(value, -1) {
		m := milterRef{options: map[string]string{}}
		for _, word := range strings.FieldsFunc(strings.Trim(item, "{}"), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			if k, v, ok := strings.Cut(word, "="); ok {
				m.options[k] = v
			} else {
				m.address = word
			}
		}
		if m.address != "" {
			out = append(out, m)
		}
	}
	return out
}

// names reports whether one of the milters in value is a socket of c.milter. It also checks the settings in the braces.
func (c *checker) names(value string, chroot bool, where string) bool {
	found := false
	for _, m := range split(value) {
		c.notation(m.address, where)
		for i, l := range c.milter.Listen {
			same, hidden := c.matches(m.address, l, chroot)
			if !same {
				continue
			}
			found, c.used[i] = true, true
			if hidden {
				c.add(Error, where, "put the socket below "+c.setup.Main["queue_directory"]+" and name it relative to that directory, or use inet:127.0.0.1:PORT",
					"the service runs in a chroot and cannot see %s", m.address)
			}
			for name, v := range m.options {
				c.setting(where, "milter_"+name, v)
			}
		}
	}
	return found
}

// notation finds sockets that are written as for Sendmail, and kinds of sockets that Postfix does not know.
func (c *checker) notation(address, where string) {
	kind, rest, _ := strings.Cut(address, ":")
	switch {
	case kind == "inet" && strings.Contains(rest, "@"):
		p, h, _ := strings.Cut(rest, "@")
		c.add(Error, where, "write inet:"+h+":"+p, "%s is Sendmail's notation of a socket", address)
	case kind != "inet" && kind != "unix":
		c.add(Error, where, "write unix:PATH or inet:HOST:PORT", "%s is not a socket that Postfix can connect to", address)
	}
}

// matches reports whether theirs, a socket as Postfix names it, is the listener. It is hidden if Postfix cannot reach it from its chroot.
func (c *checker) matches(theirs string, listener Listener, chroot bool) (same, hidden bool) {
	if path, ok := strings.CutPrefix(theirs, "unix:"); ok {
		if listener.Network != "unix" {
			return false, false
		}
		inQueue, own := filepath.Join(c.setup.Main["queue_directory"], path), filepath.Clean(listener.Address)
		switch {
		case chroot && inQueue == own:
			return true, false
		case chroot && filepath.Clean(path) == own:
			return true, true
		case !filepath.IsAbs(path):
			return inQueue == own, false
		}
		return filepath.Clean(path) == own, false
	}
	addr, ok := strings.CutPrefix(theirs, "inet:")
	if !ok || listener.Network != "tcp" {
		return false, false
	}
	h, own := host(addr), host(listener.Address)
	every := slices.Contains([]string{"", "0.0.0.0", "::"}, own)
	return endpoint(addr) == endpoint(listener.Address) && (h == own || every || netaddr.IsLoopback(h) && netaddr.IsLoopback(own)), false
}

// host returns the host of host:port without brackets, or "".
func host(addr string) string {
	addr, _, _ = strings.Cut(addr, "/")
	i := strings.LastIndexByte(addr, ':')
	return strings.ToLower(strings.Trim(addr[:max(i, 0)], "[]"))
}

// postfixAddress returns the first socket of the milter as Postfix writes it, relative to the queue directory if it is in there.
func (c *checker) postfixAddress() string {
	l := c.milter.Listen[0]
	if l.Network == "tcp" {
		return "inet:" + l.Address
	}
	if rel, err := filepath.Rel(c.setup.Main["queue_directory"], l.Address); err == nil && filepath.IsLocal(rel) {
		return "unix:" + rel
	}
	return "unix:" + l.Address
}
