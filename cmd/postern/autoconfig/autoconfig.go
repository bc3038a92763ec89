// Package autoconfig tells mail programs how to reach a domain's servers: Thunderbird's and Apple's configuration documents, and the SRV
// records of RFC 6186 and RFC 8314, which it also checks in DNS.
//
// It starts no goroutines.
package autoconfig

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

// Setup is what mail programs learn about a domain: where to submit mail, and where to read it.
type Setup struct {
	Domain, Name          string
	Host                  string // of submission
	StartTLS, ImplicitTLS int    // its ports; 0: not served
	IMAP, POP3            string // hosts; "": none
}

// New returns the setup of a configuration. It takes the ports from the addresses of the submission listeners.
func New(c *config.Config, starttls, implicit []string) *Setup {
	a := c.Admin.Autoconfig
	return &Setup{Domain: a.Domain, Name: a.Name, Host: c.Hostname, StartTLS: firstPort(starttls), ImplicitTLS: firstPort(implicit), IMAP: a.IMAP, POP3: a.POP3}
}

// firstPort returns the port of the first address that is not on loopback, or else that of the first address; 0 without any.
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

// Register serves Thunderbird's config-v1.1.xml under the three paths that Thunderbird asks for, and Apple's profile. Without a domain
// it serves nothing. The documents hold no secret, and of the request only a checked address gets into them.
func (c *Setup) Register(mux *http.ServeMux) {
	if c.Domain == "" {
		return
	}
	for _, path := range []string{"/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml", "/autoconfig/config-v1.1.xml"} {
		mux.HandleFunc("GET "+path, c.serve("application/xml", "", func(string) ([]byte, error) { return c.thunderbird() }))
	}
	mux.HandleFunc("GET /mail/{domain}", c.serve("application/x-apple-aspen-config", c.Domain+".mobileconfig", c.apple))
}

// serve answers with the document that make returns for the address in emailaddress=, if there is one. It must be of this domain.
func (c *Setup) serve(kind, file string, make func(email string) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("domain"); name != "" && name != file {
			http.NotFound(w, r)
			return
		}
		email := r.URL.Query().Get("emailaddress")
		if email != "" && !c.owns(email) {
			http.Error(w, "emailaddress: no address of "+c.Domain, http.StatusBadRequest)
			return
		}
		body, err := make(email)
		if err != nil {
			http.Error(w, "the document cannot be made", http.StatusInternalServerError)
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

// owns reports whether email is a plain address of the domain.
func (c *Setup) owns(email string) bool {
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

// thunderbird returns config-v1.1.xml. Implicit TLS comes first, as RFC 8314 section 3 recommends.
func (c *Setup) thunderbird() ([]byte, error) {
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

// plist writes Apple's property lists. It escapes every text.
type plist struct{ bytes.Buffer }

func (p *plist) text(s string) {
	p.WriteString("<string>")
	xml.EscapeText(p, []byte(s))
	p.WriteString("</string>\n")
}

// set writes pairs of a key and a value, which is a string, an int or a bool.
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

// apple returns a .mobileconfig profile (Configuration Profile Reference, com.apple.mail.managed). It is not signed.
func (c *Setup) apple(email string) ([]byte, error) {
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
		out = c.StartTLS // Apple's programs detect which of the two a port speaks
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

// uuid returns the UUID of a name (RFC 9562 section 5.8). It is always the same, so that a profile that is installed again replaces the
// earlier one.
func uuid(name string) string {
	h := sha256.Sum256([]byte("postern client setup " + name))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
