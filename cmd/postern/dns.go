package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/autoconfig"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
)

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
		Long: `Print the SRV records that tell mail programs where to submit mail of DOMAIN, the part after the @
of addresses (RFC 6186, RFC 8314), in the form of a zone file. Host and ports are those of the
configuration. A service that is not offered gets a record with the target ".".

With --check, ask a resolver whether the domain has exactly these records, and whether their targets
have addresses. Strict programs want the answers to be signed (RFC 6186 section 6). --check does not
test that.

Exit codes: 0 printed, or all records are right; 1 a record is missing, differs or could not be
looked up; 2 wrong usage.`,
		Example: `  postern dns example.com --config postern.yaml >> example.com.zone
  postern dns example.com --config postern.yaml --imap imap.example.com
  postern dns example.com --host mail.example.com --starttls-port 587 --tls-port 465 --check
  postern dns example.com --config postern.yaml --check --resolver 192.0.2.53 --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.dns(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.host, "host", "", "submission `host` (default: hostname of the configuration)")
	f.IntVar(&o.starttlsPort, "starttls-port", 0, "`port` with STARTTLS (default: that of the configuration; -1: none)")
	f.IntVar(&o.tlsPort, "tls-port", 0, "`port` with implicit TLS (default: that of the configuration; -1: none)")
	f.StringVar(&o.imap, "imap", "", "`host` of IMAP with implicit TLS on port 993 (default: admin.autoconfig.imap)")
	f.StringVar(&o.pop3, "pop3", "", "`host` of POP3 with implicit TLS on port 995 (default: admin.autoconfig.pop3)")
	f.BoolVar(&o.check, "check", false, "ask a resolver whether the records exist")
	f.StringVar(&o.resolver, "resolver", "", "`address` of the resolver (default: that of the system)")
	f.DurationVar(&o.timeout, "timeout", 5*time.Second, "how long to wait for each answer")
	for _, name := range []string{"host", "starttls-port", "tls-port", "imap", "pop3", "resolver", "timeout"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

// dns prints the records, and checks them with --check.
func (p *program) dns(cmd *cobra.Command, domain string, o dnsOptions) error {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	setup := autoconfig.New(cfg, cfg.Submission.Listen, cfg.Submission.ListenTLS)
	setup.Domain, setup.Host = domain, cmp.Or(o.host, setup.Host)
	setup.IMAP, setup.POP3 = cmp.Or(o.imap, setup.IMAP), cmp.Or(o.pop3, setup.POP3)
	setup.StartTLS, setup.ImplicitTLS = cmp.Or(o.starttlsPort, setup.StartTLS), cmp.Or(o.tlsPort, setup.ImplicitTLS)
	for _, name := range []string{domain, setup.Host, setup.IMAP, setup.POP3} {
		if name != "" && !autoconfig.IsHostName(name) {
			return exitcode.UsageError(fmt.Errorf("%q is not a domain; write letters, digits and hyphens between dots, as in example.com", name))
		}
	}
	if setup.StartTLS > 65535 || setup.ImplicitTLS > 65535 || setup.StartTLS < -1 || setup.ImplicitTLS < -1 {
		return exitcode.UsageError(errors.New("a port is out of range; write a number from 1 to 65535, or -1 for none"))
	}
	records := setup.Records()
	if !o.check {
		return p.printRecords(domain, records, false)
	}
	c, err := autoconfig.NewChecker(o.resolver, o.timeout)
	if err != nil {
		return exitcode.UsageError(err)
	}
	for i := range records {
		c.Check(cmd.Context(), &records[i])
	}
	return p.printRecords(domain, records, true)
}

func (p *program) printRecords(domain string, records []autoconfig.Record, checked bool) error {
	bad := slices.ContainsFunc(records, func(r autoconfig.Record) bool { return checked && r.State != "ok" })
	if p.json {
		if err := writeJSON(p.stdout, map[string]any{"domain": domain, "ok": !bad, "records": records}); err != nil {
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
		return exitcode.Refused()
	}
	return nil
}
