package autoconfig

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestClientSetup(t *testing.T) {
	c := &Setup{Domain: "example.com", Name: `Ex & "Sons" <Ltd>`, Host: "mail.example.com", StartTLS: 587, ImplicitTLS: 465, IMAP: "imap.example.com"}
	mux := http.NewServeMux()
	c.Register(mux)
	s := httptest.NewServer(mux)
	defer s.Close()
	get := func(path string) (int, string, http.Header) {
		r, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(b), r.Header
	}
	type server struct {
		Type       string `xml:"type,attr"`
		Hostname   string `xml:"hostname"`
		Port       int    `xml:"port"`
		SocketType string `xml:"socketType"`
		Username   string `xml:"username"`
	}
	for _, path := range []string{"/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml", "/autoconfig/config-v1.1.xml?emailaddress=alice%40Example.com"} {
		code, body, header := get(path)
		var doc struct {
			XMLName  xml.Name `xml:"clientConfig"`
			Provider struct {
				Domain   string   `xml:"domain"`
				Name     string   `xml:"displayName"`
				Incoming []server `xml:"incomingServer"`
				Outgoing []server `xml:"outgoingServer"`
			} `xml:"emailProvider"`
		}
		err := xml.Unmarshal([]byte(body), &doc)
		p := doc.Provider
		if code != 200 || err != nil || !strings.HasPrefix(header.Get("Content-Type"), "application/xml") || p.Domain != "example.com" || p.Name != c.Name || len(p.Incoming) != 1 || len(p.Outgoing) != 2 ||
			p.Outgoing[0] != (server{"smtp", "mail.example.com", 465, "SSL", "%EMAILADDRESS%"}) || p.Outgoing[1].SocketType != "STARTTLS" || p.Incoming[0].Hostname != "imap.example.com" {
			t.Errorf("%s: %d, %v, %+v\n%s", path, code, err, p, body)
		}
	}
	profile := "/mail/example.com.mobileconfig"
	code, body, header := get(profile + "?emailaddress=" + url.QueryEscape("o'hara&co@example.com"))
	keys := plistKeys(t, body)
	if code != 200 || !strings.Contains(header.Get("Content-Type"), "apple-aspen-config") || keys["EmailAddress"] != "o'hara&co@example.com" || keys["EmailAccountDescription"] != c.Name ||
		keys["OutgoingMailServerPortNumber"] != "465" || keys["OutgoingMailServerHostName"] != "mail.example.com" || keys["IncomingMailServerHostName"] != "imap.example.com" {
		t.Errorf("%d, %q\n%s", code, keys, body)
	}
	if _, again, _ := get(profile); plistKeys(t, again)["PayloadUUID"] != keys["PayloadUUID"] || keys["PayloadUUID"] == "" || strings.Contains(again, "EmailAddress<") {
		t.Errorf("without an address: %s", again)
	}
	for path, want := range map[string]int{
		"/mail/other.example.mobileconfig": 404,
		"/mail/":                           404,
		profile + "?emailaddress=alice@example.net":                                  400,
		profile + "?emailaddress=%3Cx%3E@example.com":                                400,
		profile + "?emailaddress=" + url.QueryEscape("a@example.com, b@example.com"): 400,
		profile + "?emailaddress=" + url.QueryEscape("A <a@example.com>"):            400,
		profile + "?emailaddress=" + url.QueryEscape("\"a\r\nb\"@example.com"):       400,
	} {
		if code, body, _ := get(path); code != want || strings.Contains(body, "<key>") {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	empty := http.NewServeMux()
	new(Setup).Register(empty)
	w := httptest.NewRecorder()
	empty.ServeHTTP(w, httptest.NewRequest("GET", "/mail/config-v1.1.xml", nil))
	if w.Code != 404 {
		t.Errorf("without a domain: %d", w.Code)
	}
}

// plistKeys are the pairs of all dictionaries of a property list; it must be well-formed. Of two, the outer one wins.
func plistKeys(t *testing.T, body string) map[string]string {
	t.Helper()
	keys, key, text := map[string]string{}, "", ""
	d := xml.NewDecoder(strings.NewReader(body))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return keys
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, body)
		}
		switch token := token.(type) {
		case xml.CharData:
			text = string(token)
		case xml.EndElement:
			switch token.Name.Local {
			case "key":
				key = text
			case "string", "integer":
				keys[key] = text
			}
			text = ""
		}
	}
}
