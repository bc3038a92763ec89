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

// Beside is the milter that is to stand beside the Postfix.
type Beside struct {
	Listen  []Listener
	Timeout time.Duration // that policy may take for one decision
	// NeedsLogin: policy refuses mail that nobody has authenticated for. RefusesLocal: likewise mail of programs on the host.
	NeedsLogin, RefusesLocal bool
}

// Listener is one of its sockets.
type Listener struct {
	Network, Address string      // "unix" and a path, or "tcp" and host:port
	Mode             fs.FileMode // of a unix socket
	Group            string      // of a unix socket, a name or a number; "": what its directory gives it
}

func (l Listener) String() string { return l.Network + ":" + l.Address }

// Check tells what in s will not do what the owner of b expects of it.
func Check(s *Setup, b Beside) []Finding {
	c := &checker{setup: s, beside: b, used: map[int]bool{}}
	if len(b.Listen) == 0 {
		c.add(Error, "postern.yaml: milter.listen", `write milter: {listen: "unix:`+s.Main["queue_directory"]+`/postern/milter.sock"}`, "there is no socket that a Postfix could connect to")
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
	beside Beside
	found  []Finding
	used   map[int]bool // indexes of listeners that something in this Postfix connects to
}

func (c *checker) add(sev Severity, where, mend, format string, a ...any) {
	c.found = append(c.found, Finding{sev, where, fmt.Sprintf(format, a...), mend})
}

// service looks at one smtpd line of master.cf.
func (c *checker) service(svc Service) {
	where := "master.cf: " + svc.Name
	milters := c.setup.value(svc, "smtpd_milters")
	if !c.ours(milters, svc.Chroot, where) {
		if submits(svc.Name) {
			c.add(Error, where, "set smtpd_milters="+c.postfixAddress()+" for it", "mail that is submitted here does not pass the milter (smtpd_milters is %q)", milters)
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

// bypasses are the ways past a milter.
func (c *checker) bypasses(svc Service, where string) {
	if strings.Contains(c.setup.value(svc, "receive_override_options"), "no_milters") {
		c.add(Error, where, "take no_milters out of receive_override_options", "receive_override_options switches every milter off")
	}
	if v := c.setup.value(svc, "smtpd_milter_maps"); v != "" {
		c.add(Warning, where, "look at who is listed in "+v+", or empty smtpd_milter_maps", "smtpd_milter_maps lets the clients that it lists past the milter")
	}
	if v := c.setup.value(svc, "smtpd_proxy_filter"); v != "" {
		c.add(Error, where, "use the milter or the filter in a service, not both", "with smtpd_proxy_filter=%s no milter sees the message: policy decides at MAIL and RCPT only", v)
	}
}

// logins looks at whether mail that comes here has a login for policy to judge.
func (c *checker) logins(svc Service, where string) {
	sasl := c.setup.value(svc, "smtpd_sasl_auth_enable") == "yes"
	filter := c.contentFilter()
	switch {
	case submits(svc.Name):
		if !sasl {
			c.add(Warning, where, "set smtpd_sasl_auth_enable=yes", "without SASL nobody has an identity that policy could judge")
		}
		if c.setup.value(svc, "smtpd_tls_security_level") != "encrypt" && c.setup.value(svc, "smtpd_tls_wrappermode") != "yes" {
			c.add(Warning, where, "set smtpd_tls_security_level=encrypt", "clients may submit, and send passwords, in the clear")
		}
	case filter != "" && netaddr.IsLoopback(host(svc.Name)):
		c.add(Warning, where, "set smtpd_milters= and receive_override_options=no_milters for it",
			"mail that comes back from content_filter %s passes the milter a second time, without its login", filter)
	case c.beside.NeedsLogin && (!sasl || port25(svc.Name)):
		c.add(Warning, where, "set smtpd_milters= for it, or settings.require_auth: false in the policy's data",
			"mail from other servers comes without a login, and policy refuses it (530 5.7.0)")
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

// endpoint is the port or name of "10.0.0.1:submission/inet".
func endpoint(service string) string {
	name, _, _ := strings.Cut(service, "/")
	return name[strings.LastIndexByte(name, ':')+1:]
}

// defaults looks at main.cf.
func (c *checker) defaults() {
	main := c.setup.Main
	for _, name := range []string{"milter_default_action", "milter_protocol", "milter_connect_timeout", "milter_command_timeout", "milter_content_timeout", "milter_macro_v"} {
		c.setting("main.cf: "+name, name, main[name])
	}
	if !c.setup.ActionSet {
		c.add(Warning, "main.cf: milter_default_action", "set milter_default_action = tempfail",
			"it is left to the default, which is %s in this Postfix %s: tempfail before 3.11, shutdown from then on", main["milter_default_action"], main["mail_version"])
	}
	if v := main["receive_override_options"]; strings.Contains(v, "no_milters") {
		c.add(Error, "main.cf: receive_override_options", "take no_milters out of it", "it switches every milter off")
	}
	if main["milter_header_checks"] != "" {
		c.add(Warning, "main.cf: milter_header_checks", "leave it empty", "it changes the header fields that policy added, after the decision")
	}
}

// setting looks at one value that may stand in main.cf, after -o, or in the braces of one milter.
func (c *checker) setting(where, name, value string) {
	switch name {
	case "milter_default_action":
		c.action(where, value)
	case "milter_protocol":
		c.protocol(where, value)
	case "milter_macro_v":
		if !strings.HasPrefix(value, "Postfix") {
			c.add(Error, where, "leave milter_macro_v = $mail_name $mail_version and mail_name = Postfix",
				"milter_macro_v is %q; by its beginning, Postfix, the milter tells which mail server it is", value)
		}
	default:
		c.timeout(where, name, value)
	}
}

func (c *checker) action(where, action string) {
	const mend = "set milter_default_action = tempfail"
	switch action {
	case "accept":
		c.add(Error, where, mend, "with the default action accept, mail passes unfiltered whenever the milter is down, slow or restarting")
	case "reject":
		c.add(Error, where, mend, "with the default action reject, mail is refused for good whenever the milter is down, slow or restarting")
	case "shutdown":
		if c.setup.ActionSet || where != "main.cf: milter_default_action" {
			c.add(Warning, where, mend, "with the default action shutdown, clients are cut off when the milter is down (the default since Postfix 3.11)")
		}
	case "quarantine":
		c.add(Warning, where, mend, "with the default action quarantine, mail is taken and held, unchecked, whenever the milter is down")
	}
}

var macrosNeeded = map[string][]string{
	"milter_connect_macros": {"j", "v"}, "milter_helo_macros": {"{tls_version}"}, "milter_mail_macros": {"{auth_authen}", "{auth_type}"},
}

// protocol: below version 6 the milter cannot ask for macros itself.
func (c *checker) protocol(where, value string) {
	words := strings.Fields(value)
	if len(words) == 0 {
		return
	}
	v, err := strconv.Atoi(words[0])
	if err != nil || v >= 6 {
		return
	}
	c.add(Warning, where, "set milter_protocol = 6", "protocol version %d withholds facts and costs round trips", v)
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
	if d, ok := duration(value); ok && d < c.beside.Timeout+5*time.Second {
		c.add(Error, where, fmt.Sprintf("set %s = 30s or more", name), "%s = %s is shorter than policy may take (%s) and some room", name, value, c.beside.Timeout)
	}
}

// local looks at mail that does not come by SMTP.
func (c *checker) local() {
	const where = "main.cf: non_smtpd_milters"
	chroot := false
	for _, svc := range c.setup.Services {
		chroot = chroot || svc.Command == "cleanup" && svc.Chroot
	}
	if !c.ours(c.setup.Main["non_smtpd_milters"], chroot, where) {
		c.add(Warning, where, "set non_smtpd_milters = "+c.postfixAddress(), "mail from sendmail(1) and from the local queue does not pass the milter")
		return
	}
	if c.beside.RefusesLocal {
		c.add(Warning, where, "write settings.allow_local: true in the policy's data, or leave it empty", "mail of programs on this host passes the milter, and policy refuses it: it bounces")
	}
	if v := c.setup.Main["internal_mail_filter_classes"]; v != "" {
		c.add(Warning, "main.cf: internal_mail_filter_classes", "leave it empty", "mail that Postfix itself makes (%s) passes the milter; what is refused of it is lost", v)
	}
}

// reach says which sockets nobody in this Postfix uses.
func (c *checker) reach() {
	if len(c.used) == 0 {
		var list []string
		for _, l := range c.beside.Listen {
			list = append(list, l.String())
		}
		c.add(Error, "master.cf", "set smtpd_milters = "+c.postfixAddress()+" for the submission service", "no smtpd service uses any of %s", strings.Join(list, ", "))
	}
}

var unit = regexp.MustCompile(`^([0-9]+)([smhdw]?)$`)

// duration reads Postfix's times: a number and s, m, h, d or w; seconds without.
func duration(v string) (time.Duration, bool) {
	m := unit.FindStringSubmatch(v)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	of := map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}[m[2]]
	return time.Duration(n) * of, err == nil
}
