package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"net/mail"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/config"
)

// clientSetup is what mail programs are told about a domain: where to submit, and where to read.
type clientSetup struct {
	Domain, Name          string
	Host                  string // of submission
	StartTLS, ImplicitTLS int    // its ports; 0: not served
	IMAP, POP3            string // hosts; "": none
}

// newClientSetup takes the ports from the addresses of listeners.
func newClientSetup(c *config.Config, starttls, implicit []string) *clientSetup {
	a := c.Admin.Autoconfig
	return &clientSetup{Domain: a.Domain, Name: a.Name, Host: c.Hostname, StartTLS: firstPort(starttls), ImplicitTLS: firstPort(implicit), IMAP: a.IMAP, POP3: a.POP3}
}

// firstPort of listeners, preferring one that is not on loopback; 0: there is none.
func firstPort(addrs []string) (port int) {
	for _, a := range addrs {
		host, p, err := net.SplitHostPort(a)
		n, perr := strconv.Atoi(p)
		if err != nil || perr != nil {
			continue
		}
		ip := net.ParseIP(host)
		if host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return n
		}
		if port == 0 {
			port = n
		}
	}
	return port
}

// register serves Thunderbird's config-v1.1.xml under the three paths that it asks for, and Apple's profile. Without a domain
// nothing is served. Nothing in them is secret, and nothing of the request but a checked address gets into them.
func (c *clientSetup) register(mux *http.ServeMux) {
	if c.Domain == "" {
		return
	}
	for _, path := range []string{"/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml", "/autoconfig/config-v1.1.xml"} {
		mux.HandleFunc("GET "+path, c.serve("application/xml", "", func(string) ([]byte, error) { return c.thunderbird() }))
	}
	mux.HandleFunc("GET /mail/{domain}", c.serve("application/x-apple-aspen-config", c.Domain+".mobileconfig", c.apple))
}

// serve answers with what make makes for the address in emailaddress=, which must be of this domain where it is there.
func (c *clientSetup) serve(kind, file string, make func(email string) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("domain"); name != "" && name != file {
			http.NotFound(w, r)
			return
		}
		email := r.URL.Query().Get("emailaddress")
		if email != "" && !c.ours(email) {
			http.Error(w, "emailaddress: no address of "+c.Domain, http.StatusBadRequest)
			return
		}
		body, err := make(email)
		if err != nil {
			http.Error(w, "cannot be made", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", kind+"; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if file != "" {
			w.Header().Set("Content-Disposition", `attachment; filename="`+file+`"`)
		}
		w.Write(body)
	}
}

// ours says whether email is a plain address of the domain.
func (c *clientSetup) ours(email string) bool {
	a, err := mail.ParseAddress(email)
	return err == nil && len(email) <= 254 && a.Name == "" && a.Address == email && strings.HasSuffix(strings.ToLower(email), "@"+c.Domain)
}

// xmlServer is one server in Thunderbird's document.
type xmlServer struct {
	XMLName        xml.Name
	Type           string `xml:"type,attr"`
	Hostname       string `xml:"hostname"`
	Port           int    `xml:"port"`
	SocketType     string `xml:"socketType"`
	Username       string `xml:"username"`
	Authentication string `xml:"authentication"`
}

// thunderbird is config-v1.1.xml. Implicit TLS comes first, as RFC 8314 §3 wants it.
func (c *clientSetup) thunderbird() ([]byte, error) {
	type provider struct {
		ID      string `xml:"id,attr"`
		Domain  string `xml:"domain"`
		Name    string `xml:"displayName"`
		Short   string `xml:"displayShortName"`
		Servers []xmlServer
	}
	server := func(element, kind, host string, port int, socket string) xmlServer {
		return xmlServer{xml.Name{Local: element}, kind, host, port, socket, "%EMAILADDRESS%", "password-cleartext"}
	}
	p := provider{ID: c.Domain, Domain: c.Domain, Name: c.Name, Short: c.Name}
	if c.IMAP != "" {
		p.Servers = append(p.Servers, server("incomingServer", "imap", c.IMAP, 993, "SSL"))
	}
	if c.POP3 != "" {
		p.Servers = append(p.Servers, server("incomingServer", "pop3", c.POP3, 995, "SSL"))
	}
	if c.ImplicitTLS != 0 {
		p.Servers = append(p.Servers, server("outgoingServer", "smtp", c.Host, c.ImplicitTLS, "SSL"))
	}
	if c.StartTLS != 0 {
		p.Servers = append(p.Servers, server("outgoingServer", "smtp", c.Host, c.StartTLS, "STARTTLS"))
	}
	body, err := xml.MarshalIndent(struct {
		XMLName  xml.Name `xml:"clientConfig"`
		Version  string   `xml:"version,attr"`
		Provider provider `xml:"emailProvider"`
	}{Version: "1.1", Provider: p}, "", "  ")
	return append([]byte(xml.Header), append(body, '\n')...), err
}

// plist writes Apple's property lists, with every text escaped.
type plist struct{ bytes.Buffer }

func (p *plist) text(s string) {
	p.WriteString("<string>")
	xml.EscapeText(p, []byte(s))
	p.WriteString("</string>\n")
}

// set writes pairs of a key and a string, number or truth.
func (p *plist) set(pairs ...any) {
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(p, "<key>%s</key>", pairs[i])
		switch v := pairs[i+1].(type) {
		case string:
			p.text(v)
		case int:
			fmt.Fprintf(p, "<integer>%d</integer>\n", v)
		case bool:
			fmt.Fprintf(p, "<%t/>\n", v)
		}
	}
}

// apple is a .mobileconfig profile (Configuration Profile Reference, com.apple.mail.managed). It is not signed.
func (c *clientSetup) apple(email string) ([]byte, error) {
	p := new(plist)
	p.WriteString(xml.Header + `<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">` + "\n<plist version=\"1.0\"><dict>\n<key>PayloadContent</key><array><dict>\n")
	incoming, port, kind := c.IMAP, 993, "EmailTypeIMAP"
	if incoming == "" {
		incoming, port, kind = c.POP3, 995, "EmailTypePOP"
	}
	p.set("EmailAccountDescription", c.Name, "EmailAccountType", kind)
	if email != "" {
		p.set("EmailAddress", email, "IncomingMailServerUsername", email, "OutgoingMailServerUsername", email)
	}
	if incoming != "" {
		p.set("IncomingMailServerAuthentication", "EmailAuthPassword", "IncomingMailServerHostName", incoming,
			"IncomingMailServerPortNumber", port, "IncomingMailServerUseSSL", true)
	}
	out := c.ImplicitTLS
	if out == 0 {
		out = c.StartTLS // Apple's programs find out by themselves which of the two a port speaks
	}
	p.set("OutgoingMailServerAuthentication", "EmailAuthPassword", "OutgoingMailServerHostName", c.Host, "OutgoingMailServerPortNumber", out,
		"OutgoingMailServerUseSSL", true, "OutgoingPasswordSameAsIncomingPassword", true,
		"PayloadIdentifier", "org.postern-mail."+c.Domain+".mail", "PayloadType", "com.apple.mail.managed", "PayloadUUID", uuid("mail "+c.Domain), "PayloadVersion", 1)
	p.WriteString("</dict></array>\n")
	p.set("PayloadDisplayName", c.Name, "PayloadIdentifier", "org.postern-mail."+c.Domain, "PayloadOrganization", c.Name,
		"PayloadType", "Configuration", "PayloadUUID", uuid(c.Domain), "PayloadVersion", 1)
	p.WriteString("</dict></plist>\n")
	return p.Bytes(), nil
}

// uuid of a name, always the same, so that a profile which is installed again replaces the one before (RFC 9562 §5.8).
func uuid(name string) string {
	h := sha256.Sum256([]byte("postern client setup " + name))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
