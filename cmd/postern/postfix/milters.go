package postfix

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/netaddr"
)

// milter is an element of smtpd_milters.
type milter struct {
	address string
	options map[string]string
}

var listItem = regexp.MustCompile(`\{[^}]*\}|[^\s,]+`)

// split reads a milter list: addresses, or "{ address, name=value, ... }" (Postfix 3.0).
func split(value string) []milter {
	var out []milter
	for _, item := range listItem.FindAllString(value, -1) {
		m := milter{options: map[string]string{}}
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

// ours says whether one of the milters in value is one of our sockets, and looks at what is said of it there.
func (c *checker) ours(value string, chroot bool, where string) bool {
	found := false
	for _, m := range split(value) {
		c.notation(m.address, where)
		for i, l := range c.beside.Listen {
			same, hidden := c.matches(m.address, l, chroot)
			if !same {
				continue
			}
			found, c.used[i] = true, true
			if hidden {
				c.add(Error, where, "put the socket below "+c.setup.Main["queue_directory"]+" and name it relative to that, or use inet:127.0.0.1:PORT",
					"the service runs in a chroot and cannot see %s", m.address)
			}
			for name, v := range m.options {
				c.setting(where, "milter_"+name, v)
			}
		}
	}
	return found
}

// notation complains of sockets as Sendmail writes them, and of what Postfix knows no more of.
func (c *checker) notation(address, where string) {
	kind, rest, _ := strings.Cut(address, ":")
	switch {
	case kind == "inet" && strings.Contains(rest, "@"):
		p, h, _ := strings.Cut(rest, "@")
		c.add(Error, where, "write inet:"+h+":"+p, "%s is Sendmail's way of writing a socket", address)
	case kind != "inet" && kind != "unix":
		c.add(Error, where, "write unix:PATH or inet:HOST:PORT", "%s is no socket that Postfix can connect to", address)
	}
}

// matches compares Postfix's name of a socket with ours; hidden: it is the same only outside of the chroot.
func (c *checker) matches(theirs string, ours Listener, chroot bool) (same, hidden bool) {
	if path, ok := strings.CutPrefix(theirs, "unix:"); ok {
		if ours.Network != "unix" {
			return false, false
		}
		inQueue, own := filepath.Join(c.setup.Main["queue_directory"], path), filepath.Clean(ours.Address)
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
	if !ok || ours.Network != "tcp" {
		return false, false
	}
	h, own := host(addr), host(ours.Address)
	every := slices.Contains([]string{"", "0.0.0.0", "::"}, own)
	return endpoint(addr) == endpoint(ours.Address) && (h == own || every || netaddr.IsLoopback(h) && netaddr.IsLoopback(own)), false
}

// host is what stands before the port, without brackets; "" where nothing does.
func host(addr string) string {
	addr, _, _ = strings.Cut(addr, "/")
	i := strings.LastIndexByte(addr, ':')
	return strings.ToLower(strings.Trim(addr[:max(i, 0)], "[]"))
}

// postfixAddress is our first socket as Postfix writes it, relative to the queue directory where it lies there.
func (c *checker) postfixAddress() string {
	l := c.beside.Listen[0]
	if l.Network == "tcp" {
		return "inet:" + l.Address
	}
	if rel, err := filepath.Rel(c.setup.Main["queue_directory"], l.Address); err == nil && filepath.IsLocal(rel) {
		return "unix:" + rel
	}
	return "unix:" + l.Address
}
