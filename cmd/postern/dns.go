package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
)

// srvRecord is one SRV record (RFC 2782) that the domain should have.
type srvRecord struct {
	Name     string   `json:"name"`
	Priority uint16   `json:"priority"`
	Weight   uint16   `json:"weight"`
	Port     uint16   `json:"port"`
	Target   string   `json:"target"`          // ".": the service is not offered
	State    string   `json:"state,omitempty"` // with --check: "ok", "missing", "differs", "failed"
	Problem  string   `json:"problem,omitempty"`
	Found    []string `json:"found,omitempty"`
}

func (r srvRecord) String() string {
	return fmt.Sprintf("%s 3600 IN SRV %d %d %d %s", r.Name, r.Priority, r.Weight, r.Port, r.Target)
}

// dnsOptions are the flags of postern dns.
type dnsOptions struct {
	host, imap, pop3      string
	starttlsPort, tlsPort int
	check                 bool
	resolver              string
	timeout               time.Duration
}

func newDNSCmd(p *program) *cobra.Command {
	o := dnsOptions{}
	cmd := &cobra.Command{
		Use:   "dns DOMAIN",
		Short: "Print or check the DNS records by which mail programs find this server",
		Long: `Print the SRV records that tell mail programs where to submit mail of DOMAIN, the part behind the @
of addresses (RFC 6186, RFC 8314), ready for a zone file. Host and ports are the configuration's. A service
that is not offered gets a record with the target ".", which says so.

With --check, ask a resolver whether the domain has just these records, and whether their targets have
addresses. Programs that are strict want the answers signed (RFC 6186 section 6); that is not checked here.

Exit codes: 0 printed, or all is right; 1 a record is missing, differs or could not be looked up; 2 wrong usage.`,
		Example: `  postern dns example.com --config postern.yaml >> example.com.zone
  postern dns example.com --config postern.yaml --imap imap.example.com
  postern dns example.com --host mail.example.com --starttls-port 587 --tls-port 465 --check
  postern dns example.com --config postern.yaml --check --resolver 192.0.2.53 --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.dns(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.host, "host", "", "submission `host` (default: the configuration's hostname)")
	f.IntVar(&o.starttlsPort, "starttls-port", 0, "`port` with STARTTLS (default: the configuration's; -1: none)")
	f.IntVar(&o.tlsPort, "tls-port", 0, "`port` with implicit TLS (default: the configuration's; -1: none)")
	f.StringVar(&o.imap, "imap", "", "`host` of IMAP with implicit TLS on 993 (default: admin.autoconfig.imap)")
	f.StringVar(&o.pop3, "pop3", "", "`host` of POP3 with implicit TLS on 995 (default: admin.autoconfig.pop3)")
	f.BoolVar(&o.check, "check", false, "ask a resolver whether the records are there")
	f.StringVar(&o.resolver, "resolver", "", "`address` of the resolver to ask (default: the system's)")
	f.DurationVar(&o.timeout, "timeout", 5*time.Second, "how long to wait for each answer")
	for _, name := range []string{"host", "starttls-port", "tls-port", "imap", "pop3", "resolver", "timeout"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

// dns prints the records, checked or not.
func (p *program) dns(cmd *cobra.Command, domain string, o dnsOptions) error {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	setup := newClientSetup(cfg, cfg.Submission.Listen, cfg.Submission.ListenTLS)
	setup.Domain, setup.Host = domain, cmp.Or(o.host, setup.Host)
	setup.IMAP, setup.POP3 = cmp.Or(o.imap, setup.IMAP), cmp.Or(o.pop3, setup.POP3)
	setup.StartTLS, setup.ImplicitTLS = cmp.Or(o.starttlsPort, setup.StartTLS), cmp.Or(o.tlsPort, setup.ImplicitTLS)
	for _, name := range []string{domain, setup.Host, setup.IMAP, setup.POP3} {
		if name != "" && !isHostName(name) {
			return usageError(fmt.Errorf("%q is no domain: write letters, digits and hyphens between dots, as in example.com", name))
		}
	}
	if setup.StartTLS > 65535 || setup.ImplicitTLS > 65535 || setup.StartTLS < -1 || setup.ImplicitTLS < -1 {
		return usageError(errors.New("a port is a number from 1 to 65535, or -1 for none"))
	}
	records := setup.records()
	if !o.check {
		return p.printRecords(domain, records, false)
	}
	c, err := newChecker(o)
	if err != nil {
		return usageError(err)
	}
	for i := range records {
		c.check(cmd.Context(), &records[i])
	}
	return p.printRecords(domain, records, true)
}

func (p *program) printRecords(domain string, records []srvRecord, checked bool) error {
	bad := slices.ContainsFunc(records, func(r srvRecord) bool { return checked && r.State != "ok" })
	if p.json {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(map[string]any{"domain": domain, "ok": !bad, "records": records}); err != nil {
			return err
		}
	} else {
		for _, r := range records {
			if !checked {
				fmt.Fprintln(p.stdout, r)
				continue
			}
			fmt.Fprintf(p.stdout, "%-8s%s\n", r.State, r)
			if r.Problem != "" {
				fmt.Fprintln(p.stdout, "        "+r.Problem)
			}
			for _, f := range r.Found {
				fmt.Fprintln(p.stdout, "        found: "+f)
			}
		}
	}
	if bad {
		return refused()
	}
	return nil
}

// isHostName says whether s is a name of letters, digits and hyphens.
func isHostName(s string) bool {
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

// records are those of RFC 6186 §3 and RFC 8314 §5.1. The clear-text ports of IMAP and POP3 are said not to be there.
func (c *clientSetup) records() []srvRecord {
	var all []srvRecord
	add := func(service, host string, port int) {
		r := srvRecord{Name: "_" + service + "._tcp." + c.Domain + ".", Target: "."}
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

// checker asks one resolver after another.
type checker struct {
	servers []string
	timeout time.Duration
}

func newChecker(o dnsOptions) (*checker, error) {
	c := &checker{timeout: o.timeout}
	if o.resolver != "" {
		if _, _, err := net.SplitHostPort(o.resolver); err != nil {
			o.resolver = net.JoinHostPort(strings.Trim(o.resolver, "[]"), "53")
		}
		if host, _, err := net.SplitHostPort(o.resolver); err != nil || net.ParseIP(host) == nil {
			return nil, fmt.Errorf("--resolver %s is no address: write 192.0.2.53, or 127.0.0.1:5353", o.resolver)
		}
		c.servers = []string{o.resolver}
		return c, nil
	}
	system, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(system.Servers) == 0 {
		return nil, fmt.Errorf("the system names no resolver (%v): give --resolver", err)
	}
	for _, s := range system.Servers {
		c.servers = append(c.servers, net.JoinHostPort(s, system.Port))
	}
	return c, nil
}

// ask gives the records of one name, and whether the name is an alias (RFC 2782 forbids that for targets).
func (c *checker) ask(ctx context.Context, name string, kind uint16) (answers []dns.RR, alias bool, err error) {
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

// check looks one record up.
func (c *checker) check(ctx context.Context, want *srvRecord) {
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
		want.State, want.Problem = "ok", "there is none; the record would spare programs the guess"
	case len(answers) == 0:
		want.State, want.Problem = "missing", "add it to the zone"
	case !right:
		want.State, want.Problem = "differs", "programs are sent elsewhere: replace what was found"
	case len(want.Found) > 0:
		want.State, want.Problem = "differs", "it is there, but others beside it may be taken instead"
	default:
		want.State = "ok"
	}
	if want.State == "ok" && want.Target != "." {
		c.target(ctx, want)
	}
}

// target looks for the addresses of a right record's target.
func (c *checker) target(ctx context.Context, want *srvRecord) {
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
