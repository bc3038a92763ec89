package autoconfig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Record is one SRV record (RFC 2782) that the domain should have. Check fills in the last three fields.
type Record struct {
	Name     string   `json:"name"`
	Priority uint16   `json:"priority"`
	Weight   uint16   `json:"weight"`
	Port     uint16   `json:"port"`
	Target   string   `json:"target"`          // "." where the service is not offered
	State    string   `json:"state,omitempty"` // "ok", "missing", "differs" or "failed"
	Problem  string   `json:"problem,omitempty"`
	Found    []string `json:"found,omitempty"`
}

// String returns the record as a line of a zone file.
func (r Record) String() string {
	return fmt.Sprintf("%s 3600 IN SRV %d %d %d %s", r.Name, r.Priority, r.Weight, r.Port, r.Target)
}

// IsHostName reports whether s is a host name of letters, digits and hyphens (RFC 1123 section 2.1).
func IsHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		rest := strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-")
		if label == "" || len(label) > 63 || rest != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// Records returns the records of RFC 6186 section 3 and RFC 8314 section 5.1. They say that IMAP and POP3 are not offered in clear text.
func (c *Setup) Records() []Record {
	var all []Record
	add := func(service, host string, port int) {
		r := Record{Name: "_" + service + "._tcp." + c.Domain + ".", Target: "."}
		if port > 0 && host != "" {
			r.Weight, r.Port, r.Target = 1, uint16(port), host+"."
		}
		all = append(all, r)
	}
	add("submissions", c.Host, c.ImplicitTLS)
	add("submission", c.Host, c.StartTLS)
	if c.IMAP != "" {
		add("imaps", c.IMAP, 993)
		add("imap", "", 0)
	}
	if c.POP3 != "" {
		add("pop3s", c.POP3, 995)
		add("pop3", "", 0)
	}
	return all
}

// Checker looks records up in DNS. It asks one resolver after another until one answers.
type Checker struct {
	servers []string
	timeout time.Duration
}

// NewChecker returns a Checker that asks resolver, an address with or without a port, or the system's resolvers where it is "". timeout
// is for each answer.
func NewChecker(resolver string, timeout time.Duration) (*Checker, error) {
	c := &Checker{timeout: timeout}
	if resolver != "" {
		if _, _, err := net.SplitHostPort(resolver); err != nil {
			resolver = net.JoinHostPort(strings.Trim(resolver, "[]"), "53")
		}
		if host, _, err := net.SplitHostPort(resolver); err != nil || net.ParseIP(host) == nil {
			return nil, fmt.Errorf("--resolver %s is not an address; write it like 192.0.2.53 or 127.0.0.1:5353", resolver)
		}
		c.servers = []string{resolver}
		return c, nil
	}
	system, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(system.Servers) == 0 {
		return nil, fmt.Errorf("the system names no resolver (%v); name one with --resolver", err)
	}
	for _, s := range system.Servers {
		c.servers = append(c.servers, net.JoinHostPort(s, system.Port))
	}
	return c, nil
}

// ask returns the records of one kind at a name, and whether the name is an alias, which RFC 2782 forbids for targets.
func (c *Checker) ask(ctx context.Context, name string, kind uint16) (answers []dns.RR, alias bool, err error) {
	m := new(dns.Msg).SetQuestion(name, kind)
	m.SetEdns0(1232, false)
	var failed error
	for _, server := range c.servers {
		r, _, err := (&dns.Client{Net: "udp", Timeout: c.timeout}).ExchangeContext(ctx, m, server)
		if err == nil && r.Truncated {
			r, _, err = (&dns.Client{Net: "tcp", Timeout: c.timeout}).ExchangeContext(ctx, m, server)
		}
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("%s: %w", server, err))
			continue
		case r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError:
			failed = errors.Join(failed, fmt.Errorf("%s answers %s", server, dns.RcodeToString[r.Rcode]))
			continue
		}
		for _, rr := range r.Answer {
			alias = alias || rr.Header().Rrtype == dns.TypeCNAME && strings.EqualFold(rr.Header().Name, name)
			if rr.Header().Rrtype == kind {
				answers = append(answers, rr)
			}
		}
		return answers, alias, nil
	}
	return nil, false, failed
}

// Check looks up one record and sets its State, Problem and Found.
func (c *Checker) Check(ctx context.Context, want *Record) {
	answers, _, err := c.ask(ctx, want.Name, dns.TypeSRV)
	if err != nil {
		want.State, want.Problem = "failed", err.Error()
		return
	}
	right := false
	for _, rr := range answers {
		s := rr.(*dns.SRV)
		same := s.Port == want.Port && strings.EqualFold(s.Target, want.Target)
		right = right || same
		if !same {
			want.Found = append(want.Found, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
	}
	switch {
	case len(answers) == 0 && want.Target == ".":
		want.State, want.Problem = "ok", "there is no record; with one, programs would not have to guess"
	case len(answers) == 0:
		want.State, want.Problem = "missing", "add it to the zone"
	case !right:
		want.State, want.Problem = "differs", "mail programs are sent to another server; replace what was found"
	case len(want.Found) > 0:
		want.State, want.Problem = "differs", "the record is there, but programs may take one of the others; remove them"
	default:
		want.State = "ok"
	}
	if want.State == "ok" && want.Target != "." {
		c.target(ctx, want)
	}
}

// target checks that the target of a correct record has an address and is no alias.
func (c *Checker) target(ctx context.Context, want *Record) {
	found := false
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		answers, alias, err := c.ask(ctx, want.Target, kind)
		switch {
		case err != nil:
			want.State, want.Problem = "failed", fmt.Sprintf("address of %s: %v", want.Target, err)
			return
		case alias:
			want.State, want.Problem = "differs", want.Target+" is an alias (CNAME), which a target must not be (RFC 2782)"
			return
		}
		found = found || len(answers) > 0
	}
	if !found {
		want.State, want.Problem = "missing", want.Target+" has no address: add an A or AAAA record"
	}
}
