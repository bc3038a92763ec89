package postfix

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Check tells what in s will not do what is expected of a milter that listens at the addresses listen ("unix:/path",
// "tcp:host:port") and whose policy may take up to decide.
func Check(s *Setup, listen []string, decide time.Duration) []Finding {
	c := &checker{setup: s, listen: listen}
	for _, svc := range s.Services {
		if svc.Command == "smtpd" {
			c.service(svc)
		}
	}
	c.defaults()
	c.timeouts(decide)
	c.reach()
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(c.found)
}

type checker struct {
	setup  *Setup
	listen []string
	found  []Finding
	used   bool // some smtpd service uses one of our sockets
}

func (c *checker) add(sev Severity, where, mend, format string, a ...any) {
	c.found = append(c.found, Finding{sev, where, fmt.Sprintf(format, a...), mend})
}

// service looks at one smtpd line of master.cf.
func (c *checker) service(svc Service) {
	where := "master.cf: " + svc.Name
	milters := c.setup.value(svc, "smtpd_milters")
	ours := c.ours(milters, svc.Chroot, where)
	if ours {
		c.used = true
	} else if submits(svc.Name) {
		c.add(Error, where, "set smtpd_milters="+postfixAddress(c.listen)+" for it",
			"mail that is submitted here does not pass the milter (smtpd_milters is %q)", milters)
	}
	if !ours {
		return
	}
	if strings.Contains(c.setup.value(svc, "receive_override_options"), "no_milters") {
		c.add(Error, where, "take no_milters out of receive_override_options", "receive_override_options switches every milter off")
	}
	if v := c.setup.value(svc, "smtpd_milter_maps"); v != "" {
		c.add(Warning, where, "look at who is listed in "+v+", or empty smtpd_milter_maps", "smtpd_milter_maps lets the clients that it lists past the milter")
	}
	if submits(svc.Name) && c.setup.value(svc, "smtpd_sasl_auth_enable") != "yes" {
		c.add(Warning, where, "set smtpd_sasl_auth_enable=yes", "without SASL nobody has an identity that policy could judge")
	}
	if submits(svc.Name) && c.setup.value(svc, "smtpd_tls_security_level") != "encrypt" && c.setup.value(svc, "smtpd_tls_wrappermode") != "yes" {
		c.add(Warning, where, "set smtpd_tls_security_level=encrypt", "clients may submit, and send passwords, in the clear")
	}
}

func submits(service string) bool {
	name, _, _ := strings.Cut(service, "/")
	name = name[strings.LastIndexByte(name, ':')+1:]
	return slices.Contains([]string{"submission", "submissions", "smtps", "587", "465"}, name)
}

// ours says whether one of the milters in value is one of our sockets, and complains of a socket that is out of reach.
func (c *checker) ours(value string, chroot bool, where string) bool {
	found := false
	for _, m := range split(value) {
		for _, l := range c.listen {
			if same, hidden := c.matches(m.address, l, chroot); same {
				found = true
				if hidden {
					c.add(Error, where, "put the socket below "+c.setup.Main["queue_directory"]+" and name it relative to that, or use inet:127.0.0.1:PORT",
						"the service runs in a chroot and cannot see %s", m.address)
				}
				if a := m.options["default_action"]; a == "accept" {
					c.add(Error, where, "write default_action=tempfail", "default_action=accept lets mail pass unfiltered when the milter is down")
				}
			}
		}
	}
	return found
}

// matches compares Postfix's name of a socket with ours; hidden: it is the same only outside of the chroot.
func (c *checker) matches(theirs, ours string, chroot bool) (same, hidden bool) {
	if path, ok := strings.CutPrefix(theirs, "unix:"); ok {
		own, isUnix := strings.CutPrefix(ours, "unix:")
		if !isUnix {
			return false, false
		}
		queue := c.setup.Main["queue_directory"]
		inQueue := filepath.Join(queue, path)
		switch {
		case chroot && inQueue == own:
			return true, false
		case chroot && path == own:
			return true, true
		case !filepath.IsAbs(path):
			return inQueue == own, false
		}
		return path == own, false
	}
	addr, ok := strings.CutPrefix(theirs, "inet:")
	own, isTCP := strings.CutPrefix(ours, "tcp:")
	return ok && isTCP && port(addr) == port(own) && port(addr) != "", false
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

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

// defaults looks at what Postfix does without an answer.
func (c *checker) defaults() {
	switch action := c.setup.Main["milter_default_action"]; {
	case action == "accept":
		c.add(Error, "main.cf: milter_default_action", "set milter_default_action = tempfail", "mail passes unfiltered whenever the milter is down, slow or restarting")
	case action == "shutdown":
		c.add(Warning, "main.cf: milter_default_action", "set milter_default_action = tempfail",
			"clients are cut off when the milter is down (the default since Postfix 3.11)")
	case !c.setup.ActionSet:
		c.add(Warning, "main.cf: milter_default_action", "set milter_default_action = tempfail", "it is left to the default, which Postfix 3.11 changed")
	}
	if v, err := strconv.Atoi(c.setup.Main["milter_protocol"]); err == nil && v < 6 {
		c.add(Warning, "main.cf: milter_protocol", "set milter_protocol = 6", "protocol version %d withholds facts and costs round trips", v)
	}
	if !c.ours(c.setup.Main["non_smtpd_milters"], false, "main.cf: non_smtpd_milters") {
		c.add(Warning, "main.cf: non_smtpd_milters", "set non_smtpd_milters = "+postfixAddress(c.listen), "mail from sendmail(1) and from the local queue does not pass the milter")
	}
	if v := c.setup.Main["receive_override_options"]; strings.Contains(v, "no_milters") {
		c.add(Error, "main.cf: receive_override_options", "take no_milters out of it", "it switches every milter off")
	}
	if c.setup.Main["milter_header_checks"] != "" {
		c.add(Warning, "main.cf: milter_header_checks", "leave it empty", "it changes the header fields that policy added, after the decision")
	}
}

func (c *checker) timeouts(decide time.Duration) {
	for _, name := range []string{"milter_connect_timeout", "milter_command_timeout", "milter_content_timeout"} {
		d, ok := duration(c.setup.Main[name])
		if ok && d < decide+5*time.Second {
			c.add(Error, "main.cf: "+name, fmt.Sprintf("set %s = 30s", name), "%s is shorter than policy may take (%s) and some room", c.setup.Main[name], decide)
		}
	}
}

func (c *checker) reach() {
	if !c.used {
		c.add(Error, "master.cf", "set smtpd_milters = "+postfixAddress(c.listen)+" for the submission service", "no smtpd service uses any of %s", strings.Join(c.listen, ", "))
	}
}

// postfixAddress is our first socket as Postfix writes it.
func postfixAddress(listen []string) string {
	if len(listen) == 0 {
		return "inet:127.0.0.1:8891"
	}
	if addr, ok := strings.CutPrefix(listen[0], "tcp:"); ok {
		return "inet:" + addr
	}
	return listen[0]
}

// duration reads Postfix's times: a number and s, m, h, d or w; seconds without.
func duration(v string) (time.Duration, bool) {
	if v == "" {
		return 0, false
	}
	unit := time.Second
	if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[v[len(v)-1]]; ok {
		unit, v = u, v[:len(v)-1]
	}
	n, err := strconv.Atoi(v)
	return time.Duration(n) * unit, err == nil
}
