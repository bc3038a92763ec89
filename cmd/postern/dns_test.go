package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/postern-mail/postern/cmd/postern/autoconfig"
)

// zone is an authoritative DNS server on loopback, over UDP and TCP.
func zone(t *testing.T, text string) string {
	t.Helper()
	records := map[string][]dns.RR{}
	parser := dns.NewZoneParser(strings.NewReader(text), "example.com.", "")
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		name := strings.ToLower(rr.Header().Name)
		records[name] = append(records[name], rr)
	}
	if err := parser.Err(); err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.ToLower(q.Question[0].Name)
		switch {
		case strings.Contains(name, "broken"):
			m.Rcode = dns.RcodeServerFailure
		case records[name] == nil:
			m.Rcode = dns.RcodeNameError
		default:
			for _, rr := range records[name] {
				if k := rr.Header().Rrtype; k == q.Question[0].Qtype || k == dns.TypeCNAME {
					m.Answer = append(m.Answer, rr)
				}
			}
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && strings.HasSuffix(name, "big.example.") {
			m.Answer, m.Truncated = nil, true
		}
		w.WriteMsg(m)
	})
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := packets.LocalAddr().String()
	streams, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		ready, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { s.ActivateAndServe(); close(ended) }()
		<-ready
		t.Cleanup(func() { s.Shutdown(); <-ended })
	}
	return addr
}

// runDNS gives what postern dns prints, and its exit code.
func runDNS(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(append([]string{"dns", "--dir", t.TempDir()}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

func TestDNSPrints(t *testing.T) {
	out, errs, code := runDNS(t, "Example.com.", "--host", "mail.example.com", "--starttls-port", "587", "--tls-port", "-1", "--imap", "imap.example.com", "--pop3", "pop.example.com")
	want := `_submissions._tcp.example.com. 3600 IN SRV 0 0 0 .
_submission._tcp.example.com. 3600 IN SRV 0 1 587 mail.example.com.
_imaps._tcp.example.com. 3600 IN SRV 0 1 993 imap.example.com.
_imap._tcp.example.com. 3600 IN SRV 0 0 0 .
_pop3s._tcp.example.com. 3600 IN SRV 0 1 995 pop.example.com.
_pop3._tcp.example.com. 3600 IN SRV 0 0 0 .
`
	if out != want || code != 0 {
		t.Errorf("code %d\n%s%s", code, out, errs)
	}
	parser := dns.NewZoneParser(strings.NewReader(out), "", "")
	n := 0
	for _, ok := parser.Next(); ok; _, ok = parser.Next() {
		n++
	}
	if n != 6 || parser.Err() != nil {
		t.Errorf("a zone file takes %d of the records: %v", n, parser.Err())
	}
	for _, args := range [][]string{{}, {"exa mple.com"}, {"a..b"}, {"example.com", "--host", "x_y"}, {"example.com", "--tls-port", "70000"}, {"example.com", "--check", "--resolver", "nobody"}, {"example.com\n@ IN A 1.2.3.4"}} {
		if out, _, code := runDNS(t, args...); code != 2 || out != "" {
			t.Errorf("%q: code %d, %s", args, code, out)
		}
	}
}

func TestDNSChecks(t *testing.T) {
	addr := zone(t, `
_submissions._tcp.right.example. 60 SRV 0 1 465 mail.right.example.
_submission._tcp.right.example. 60 SRV 0 1 587 MAIL.right.example.
mail.right.example. 60 AAAA 2001:db8::1
_submissions._tcp.wrong.example. 60 SRV 0 1 465 old.wrong.example.
_submission._tcp.wrong.example. 60 SRV 0 1 587 mail.wrong.example.
_submission._tcp.wrong.example. 60 SRV 0 1 25 other.wrong.example.
_submissions._tcp.alias.example. 60 SRV 0 1 465 mail.alias.example.
_submission._tcp.alias.example. 60 SRV 0 1 587 mail.alias.example.
mail.alias.example. 60 CNAME mail.right.example.
_submissions._tcp.blind.example. 60 SRV 0 1 465 mail.blind.example.
_submissions._tcp.big.example. 60 SRV 0 1 465 mail.right.example.
_submission._tcp.big.example. 60 SRV 0 1 587 mail.right.example.
`)
	for domain, c := range map[string]struct {
		host   string
		states string
		code   int
	}{
		"right.example":  {"mail.right.example", "ok ok", 0},
		"wrong.example":  {"mail.wrong.example", "differs differs", 1},
		"alias.example":  {"mail.alias.example", "differs differs", 1},
		"blind.example":  {"mail.blind.example", "missing missing", 1},
		"none.example":   {"mail.none.example", "missing missing", 1},
		"broken.example": {"mail.broken.example", "failed failed", 1},
		"big.example":    {"mail.right.example", "ok ok", 0},
	} {
		args := []string{domain, "--host", c.host, "--starttls-port", "587", "--tls-port", "465", "--check", "--resolver", addr}
		out, errs, code := runDNS(t, append(args, "--json")...)
		var got struct {
			OK      bool
			Records []autoconfig.Record
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Records) != 2 {
			t.Fatalf("%s: %v\n%s%s", domain, err, out, errs)
		}
		if states := got.Records[0].State + " " + got.Records[1].State; states != c.states || code != c.code || got.OK != (code == 0) {
			t.Errorf("%s: %s, code %d, want %s, %d\n%s", domain, states, code, c.states, c.code, out)
		}
		if text, _, again := runDNS(t, args...); again != code || !strings.Contains(text, "_submission._tcp."+domain) {
			t.Errorf("%s in text: code %d\n%s", domain, again, text)
		}
	}
	// What is not offered needs no record, and nothing answers on a dead address.
	if out, _, code := runDNS(t, "none.example", "--starttls-port", "-1", "--tls-port", "-1", "--check", "--resolver", addr); code != 0 {
		t.Errorf("nothing offered: code %d\n%s", code, out)
	}
	dead := filepath.Base(addr)
	if l, err := net.ListenPacket("udp", "127.0.0.1:0"); err == nil {
		dead = l.LocalAddr().String()
		defer l.Close() // takes packets, and never answers
	}
	if out, _, code := runDNS(t, "right.example", "--tls-port", "465", "--check", "--resolver", dead, "--timeout", "50ms"); code != 1 || !strings.Contains(out, "failed") {
		t.Errorf("no answer: code %d\n%s", code, out)
	}
}

// TestDNSOfAConfiguration: host and ports are those of the listeners that others can reach.
func TestDNSOfAConfiguration(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "postern.yaml")
	text := "hostname: mail.example.com\nsubmission:\n  listen: ['127.0.0.1:2587', ':587']\n  listen_tls: ':465'\n  require_auth: false\nauth: []\nadmin: {listen: '127.0.0.1:8880', autoconfig: {domain: example.com, imap: imap.example.com}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := runDNS(t, "example.com", "--config", path)
	for _, want := range []string{"SRV 0 1 465 mail.example.com.", "SRV 0 1 587 mail.example.com.", "SRV 0 1 993 imap.example.com."} {
		if !strings.Contains(out, want) || code != 0 {
			t.Errorf("code %d, no %q in\n%s%s", code, want, out, errs)
		}
	}
}
