package postfix

import (
	"cmp"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/netaddr"
)

// Milter is the milter that Postfix uses, as its own configuration has it.
type Milter struct {
	Listen  []Listener
	Timeout time.Duration // for one decision of policy, its wait included
	// NeedsLogin says that policy refuses mail without an authenticated login, RefusesLocal that it refuses mail of programs on the host.
	NeedsLogin, RefusesLocal bool
}

// Listener is one socket of the milter.
type Listener struct {
	Network, Address string      // "unix" and a path, or "tcp" and host:port
	Mode             fs.FileMode // of a unix socket
	Group            string      // of a unix socket, a name or a number; "" for the one that its directory or the process gives it
}

func (l Listener) String() string { return l.Network + ":" + l.Address }

// Check finds settings in s that do not work well with the milter b. The findings are sorted by severity and place.
func Check(s *Setup, b Milter) []Finding {
	c := &checker{setup: s, milter: b, used: map[int]bool{}}
	if len(b.Listen) == 0 {
		c.add(Error, "postern.yaml: milter.listen", `write milter: {listen: "unix:`+s.Main["queue_directory"]+`/postern/milter.sock"}`, "the milter has no socket that Postfix could connect to")
		return c.found
	}
	for _, svc := range s.Services {
		if svc.Command == "smtpd" {
			c.service(svc)
		}
	}
	c.reach()
	c.defaults()
	c.local()
	c.sockets()
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(c.found)
}

type checker struct {
	setup  *Setup
	milter Milter
	found  []Finding
	used   map[int]bool // indexes of the listeners that Postfix connects to
}

func (c *checker) add(sev Severity, where, mend, format string, a ...any) {
	c.found = append(c.found, Finding{sev, where, fmt.Sprintf(format, a...), mend})
}

// service checks one smtpd line of master.cf.
func (c *checker) service(svc Service) {
	where := "master.cf: " + svc.Name
	milters := c.setup.value(svc, "smtpd_milters")
	if !c.names(milters, svc.Chroot, where) {
		if submits(svc.Name) {
			c.add(Error, where, "set smtpd_milters="+c.postfixAddress()+" for this service", "mail that is submitted here does not pass the milter (smtpd_milters is %q)", milters)
		}
		return
	}
	c.bypasses(svc, where)
	c.logins(svc, where)
	for _, name := range []string{"milter_default_action", "milter_protocol", "milter_connect_timeout", "milter_command_timeout", "milter_content_timeout", "milter_macro_v"} {
		if v, own := svc.Options[name]; own {
			c.setting(where, name, v)
		}
	}
}

// bypasses finds settings that let mail pass without the milter.
func (c *checker) bypasses(svc Service, where string) {
	if strings.Contains(c.setup.value(svc, "receive_override_options"), "no_milters") {
		c.add(Error, where, "remove no_milters from receive_override_options", "receive_override_options switches off every milter")
	}
	if v := c.setup.value(svc, "smtpd_milter_maps"); v != "" {
		c.add(Warning, where, "check the clients in "+v+", or leave smtpd_milter_maps empty", "smtpd_milter_maps lets the clients in its tables pass without the milter")
	}
	if v := c.setup.value(svc, "smtpd_proxy_filter"); v != "" {
		c.add(Error, where, "use either the milter or the filter in one service", "with smtpd_proxy_filter=%s no milter sees the message, so policy decides only at MAIL and RCPT", v)
	}
}

// logins checks whether the mail of a service has a login that policy can decide by.
func (c *checker) logins(svc Service, where string) {
	sasl := c.setup.value(svc, "smtpd_sasl_auth_enable") == "yes"
	filter := c.contentFilter()
	switch {
	case submits(svc.Name):
		if !sasl {
			c.add(Warning, where, "set smtpd_sasl_auth_enable=yes", "without SASL no client has an identity that policy could decide by")
		}
		if c.setup.value(svc, "smtpd_tls_security_level") != "encrypt" && c.setup.value(svc, "smtpd_tls_wrappermode") != "yes" {
			c.add(Warning, where, "set smtpd_tls_security_level=encrypt", "clients may submit mail and send passwords in clear text")
		}
	case filter != "" && netaddr.IsLoopback(host(svc.Name)):
		c.add(Warning, where, "set smtpd_milters= and receive_override_options=no_milters for this service",
			"mail that comes back from content_filter %s passes the milter a second time, then without its login", filter)
	case c.milter.NeedsLogin && (!sasl || port25(svc.Name)):
		c.add(Warning, where, "set smtpd_milters= for this service, or settings.require_auth: false in the data of the policy",
			"mail from other servers has no login, so policy refuses it (530 5.7.0)")
	}
}

func (c *checker) contentFilter() string {
	for _, svc := range c.setup.Services {
		if v := svc.Options["content_filter"]; v != "" {
			return v
		}
	}
	return c.setup.Main["content_filter"]
}

func submits(service string) bool {
	return slices.Contains([]string{"submission", "submissions", "smtps", "587", "465"}, endpoint(service))
}

func port25(service string) bool {
	return slices.Contains([]string{"smtp", "smtpd", "25"}, endpoint(service))
}

// endpoint returns the port or name of a service, as "submission" of "10.0.0.1:submission/inet".
func endpoint(service string) string {
	name, _, _ := strings.Cut(service, "/")
	return name[strings.LastIndexByte(name, ':')+1:]
}

// defaults checks main.cf.
func (c *checker) defaults() {
	main := c.setup.Main
	for _, name := range []string{"milter_default_action", "milter_protocol", "milter_connect_timeout", "milter_command_timeout", "milter_content_timeout", "milter_macro_v"} {
		c.setting("main.cf: "+name, name, main[name])
	}
	if !c.setup.ActionSet {
		c.add(Warning, "main.cf: milter_default_action", "set milter_default_action = tempfail",
			"it is left to the default, which is %s in this Postfix %s (tempfail before 3.11, shutdown since then)", main["milter_default_action"], main["mail_version"])
	}
	if v := main["receive_override_options"]; strings.Contains(v, "no_milters") {
		c.add(Error, "main.cf: receive_override_options", "remove no_milters from it", "it switches off every milter")
	}
	if main["milter_header_checks"] != "" {
		c.add(Warning, "main.cf: milter_header_checks", "leave it empty", "it changes the header fields that policy added after the decision")
	}
}

// setting checks one value. It may come from main.cf, from -o in master.cf, or from the braces of one milter.
func (c *checker) setting(where, name, value string) {
	switch name {
	case "milter_default_action":
		c.action(where, value)
	case "milter_protocol":
		c.protocol(where, value)
	case "milter_macro_v":
		if !strings.HasPrefix(value, "Postfix") {
			c.add(Error, where, "leave milter_macro_v = $mail_name $mail_version and mail_name = Postfix",
				"milter_macro_v is %q, but the milter recognizes Postfix by a value that begins with Postfix", value)
		}
	default:
		c.timeout(where, name, value)
	}
}

func (c *checker) action(where, action string) {
	const mend = "set milter_default_action = tempfail"
	switch action {
	case "accept":
		c.add(Error, where, mend, "with the default action accept, mail passes unfiltered while the milter is down, slow or restarting")
	case "reject":
		c.add(Error, where, mend, "with the default action reject, mail is refused permanently while the milter is down, slow or restarting")
	case "shutdown":
		if c.setup.ActionSet || where != "main.cf: milter_default_action" {
			c.add(Warning, where, mend, "with the default action shutdown, clients are disconnected while the milter is down (the default since Postfix 3.11)")
		}
	case "quarantine":
		c.add(Warning, where, mend, "with the default action quarantine, mail is accepted and held without a check while the milter is down")
	}
}

var macrosNeeded = map[string][]string{
	"milter_connect_macros": {"j", "v"}, "milter_helo_macros": {"{tls_version}"}, "milter_mail_macros": {"{auth_authen}", "{auth_type}"},
}

// protocol checks milter_protocol. Below version 6 a milter cannot ask for the macros that it needs.
func (c *checker) protocol(where, value string) {
	words := strings.Fields(value)
	if len(words) == 0 {
		return
	}
	v, err := strconv.Atoi(words[0])
	if err != nil || v >= 6 {
		return
	}
	c.add(Warning, where, "set milter_protocol = 6", "with protocol version %d the milter lacks facts and needs more round trips", v)
	for name, macros := range macrosNeeded {
		have := strings.FieldsFunc(c.setup.Main[name], func(r rune) bool { return r == ' ' || r == ',' })
		for _, m := range macros {
			if !slices.Contains(have, m) && !slices.Contains(have, strings.Trim(m, "{}")) {
				c.add(Error, "main.cf: "+name, "set milter_protocol = 6, or add "+m, "version %d does not let the milter ask for %s, and the list lacks it", v, m)
			}
		}
	}
}

func (c *checker) timeout(where, name, value string) {
	if d, ok := duration(value); ok && d < c.milter.Timeout+5*time.Second {
		c.add(Error, where, fmt.Sprintf("set %s = 30s or more", name), "%s = %s is too short, because a decision may take %s and the milter needs 5 s more", name, value, c.milter.Timeout)
	}
}

// local checks mail that does not come by SMTP.
func (c *checker) local() {
	const where = "main.cf: non_smtpd_milters"
	chroot := false
	for _, svc := range c.setup.Services {
		chroot = chroot || svc.Command == "cleanup" && svc.Chroot
	}
	if !c.names(c.setup.Main["non_smtpd_milters"], chroot, where) {
		c.add(Warning, where, "set non_smtpd_milters = "+c.postfixAddress(), "mail from sendmail(1) and from the local queue does not pass the milter")
		return
	}
	if c.milter.RefusesLocal {
		c.add(Warning, where, "write settings.allow_local: true in the data of the policy, or leave non_smtpd_milters empty", "mail of programs on this host passes the milter, and bounces because policy refuses it")
	}
	if v := c.setup.Main["internal_mail_filter_classes"]; v != "" {
		c.add(Warning, "main.cf: internal_mail_filter_classes", "leave it empty", "mail that Postfix makes itself (%s) passes the milter, and is lost where policy refuses it", v)
	}
}

// reach finds a milter none of whose sockets is used by an smtpd service.
func (c *checker) reach() {
	if len(c.used) == 0 {
		var list []string
		for _, l := range c.milter.Listen {
			list = append(list, l.String())
		}
		c.add(Error, "master.cf", "set smtpd_milters = "+c.postfixAddress()+" for the submission service", "no smtpd service uses any of %s", strings.Join(list, ", "))
	}
}

var unit = regexp.MustCompile(`^([0-9]+)([smhdw]?)$`)

// duration reads a time as Postfix writes it: a number and s, m, h, d or w, or seconds without one of these.
func duration(v string) (time.Duration, bool) {
	m := unit.FindStringSubmatch(v)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	of := map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}[m[2]]
	return time.Duration(n) * of, err == nil
}
