package smtpd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/smtpd/auth"
)

// tokens is a backend: token to login. For the token "down" it is not available; "narrow" lacks the scope.
type tokens map[string]string

func (tokens) Name() string         { return "tokens" }
func (tokens) Mechanisms() []string { return []string{auth.OAuthBearer, auth.XOAuth2} }
func (tokens) Hint() auth.BearerHint {
	return auth.BearerHint{Scope: "smtp", Discovery: "https://idp.example.com/.well-known/openid-configuration"}
}

func (tokens) Password(context.Context, string, string) (auth.Identity, error) {
	return auth.Identity{}, auth.ErrCredentials
}

func (t tokens) Token(_ context.Context, token string) (auth.Identity, error) {
	switch login := t[token]; {
	case token == "down":
		return auth.Identity{}, fmt.Errorf("%w: the provider is down", auth.ErrUnavailable)
	case token == "narrow":
		return auth.Identity{}, auth.ErrScope
	case login != "":
		return auth.Identity{Login: login, Backend: "tokens", Groups: []string{"staff"}}, nil
	}
	return auth.Identity{}, auth.ErrCredentials
}

func bearers(s *Server, _ *Listener) { s.Auth = []auth.Backend{tokens{"s3cr3t": "alice"}} }

// TestBearer: OAUTHBEARER (RFC 7628) and XOAUTH2, and how a client learns why it was refused.
func TestBearer(t *testing.T) {
	t.Parallel()
	const (
		invalid = `{"status":"invalid_token","scope":"smtp","openid-configuration":"https://idp.example.com/.well-known/openid-configuration"}`
		narrow  = `{"status":"insufficient_scope","scope":"smtp","openid-configuration":"https://idp.example.com/.well-known/openid-configuration"}`
		old     = `{"status":"401","schemes":"bearer","scope":"smtp"}`
	)
	bearer := func(gs2, token string) string {
		return "AUTH OAUTHBEARER " + encoded(gs2+"\x01host=mail.example.com\x01port=587\x01auth=Bearer "+token+"\x01\x01")
	}
	xoauth2 := func(user, token string) string {
		return "AUTH XOAUTH2 " + encoded("user="+user+"\x01auth=Bearer "+token+"\x01\x01")
	}
	for name, script := range map[string]string{
		"good":                "C: " + bearer("n,a=alice,", "s3cr3t") + "\nS: 235 2.7.0",
		"case of the login":   "C: " + bearer("n,a=Alice,", "s3cr3t") + "\nS: 235 2.7.0",
		"nobody claimed":      "C: " + bearer("n,,", "s3cr3t") + "\nS: 235 2.7.0",
		"could bind":          "C: " + bearer("y,,", "s3cr3t") + "\nS: 235 2.7.0",
		"no initial":          "C: AUTH OAUTHBEARER\nS: 334 \nC: " + strings.Fields(bearer("n,a=alice,", "s3cr3t"))[2] + "\nS: 235 2.7.0",
		"scheme in any case":  "C: AUTH OAUTHBEARER " + encoded("n,,\x01auth=bEARER s3cr3t\x01\x01") + "\nS: 235 2.7.0",
		"unknown pair":        "C: AUTH OAUTHBEARER " + encoded("n,,\x01qs=x=y\x01auth=Bearer s3cr3t\x01\x01") + "\nS: 235 2.7.0",
		"somebody else's":     "C: " + bearer("n,a=ceo,", "s3cr3t") + "\nS: 334 " + encoded(invalid) + "\nC: AQ==\nS: 535 5.7.8",
		"invalid":             "C: " + bearer("n,a=alice,", "guess") + "\nS: 334 " + encoded(invalid) + "\nC: AQ==\nS: 535 5.7.8",
		"invalid, empty":      "C: " + bearer("n,a=alice,", "guess") + "\nS: 334 " + encoded(invalid) + "\nC: \nS: 535 5.7.8",
		"invalid, cancelled":  "C: " + bearer("n,a=alice,", "guess") + "\nS: 334 " + encoded(invalid) + "\nC: *\nS: 501 5.7.0",
		"invalid, then good":  "C: " + bearer("n,,", "guess") + "\nS: 334 " + encoded(invalid) + "\nC: " + strings.Fields(bearer("n,,", "s3cr3t"))[2] + "\nS: 535 5.7.8",
		"narrow":              "C: " + bearer("n,a=alice,", "narrow") + "\nS: 334 " + encoded(narrow) + "\nC: AQ==\nS: 535 5.7.8",
		"down":                "C: " + bearer("n,a=alice,", "down") + "\nS: 454 4.7.0",
		"xoauth2":             "C: " + xoauth2("alice", "s3cr3t") + "\nS: 235 2.7.0",
		"xoauth2, other":      "C: " + xoauth2("ceo", "s3cr3t") + "\nS: 334 " + encoded(old) + "\nC: \nS: 535 5.7.8",
		"xoauth2, invalid":    "C: " + xoauth2("alice", "guess") + "\nS: 334 " + encoded(old) + "\nC: \nS: 535 5.7.8",
		"xoauth2, down":       "C: " + xoauth2("alice", "down") + "\nS: 454 4.7.0",
		"xoauth2, nobody":     "C: AUTH XOAUTH2 " + encoded("user=\x01auth=Bearer s3cr3t\x01\x01") + "\nS: 501 5.5.2",
		"binding":             "C: " + bearer("p=tls-exporter,,", "s3cr3t") + "\nS: 501 5.5.2",
		"no gs2 header":       "C: AUTH OAUTHBEARER " + encoded("auth=Bearer s3cr3t\x01\x01") + "\nS: 501 5.5.2",
		"no octet 1":          "C: AUTH OAUTHBEARER " + encoded("n,,auth=Bearer s3cr3t\x01\x01") + "\nS: 501 5.5.2",
		"no end":              "C: AUTH OAUTHBEARER " + encoded("n,,\x01auth=Bearer s3cr3t\x01") + "\nS: 501 5.5.2",
		"basic":               "C: AUTH OAUTHBEARER " + encoded("n,,\x01auth=Basic s3cr3t\x01\x01") + "\nS: 501 5.5.2",
		"twice":               "C: AUTH OAUTHBEARER " + encoded("n,,\x01auth=Bearer x\x01auth=Bearer s3cr3t\x01\x01") + "\nS: 501 5.5.2",
		"no auth":             "C: AUTH OAUTHBEARER " + encoded("n,,\x01host=x\x01\x01") + "\nS: 501 5.5.2",
		"bad escape":          "C: " + bearer("n,a=al=ice,", "s3cr3t") + "\nS: 501 5.5.2",
		"bad port":            "C: AUTH OAUTHBEARER " + encoded("n,,\x01port=x\x01auth=Bearer s3cr3t\x01\x01") + "\nS: 501 5.5.2",
		"no password is good": "C: AUTH PLAIN {alice:s3cr3t}\nS: 504 5.5.4",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, wantsAuth, bearers)
			after := "S: 530 5.7.0"
			if strings.Contains(script, "235") {
				after = "S: 250 2.1.0"
			}
			s.talk(secure).talk(script + "\nC: MAIL FROM:<alice@example.com>\n" + after + quit)
			for _, secret := range []string{"s3cr3t", "guess"} {
				if strings.Contains(s.log.String(), secret) {
					t.Error("a token is in the log")
				}
			}
		})
	}
}

// certified is a backend: common name of a certificate to login.
type certified map[string]string

func (certified) Name() string         { return "certified" }
func (certified) Mechanisms() []string { return []string{auth.External} }

func (certified) Password(context.Context, string, string) (auth.Identity, error) {
	return auth.Identity{}, auth.ErrCredentials
}

func (c certified) Certificate(_ context.Context, login string, chain []*x509.Certificate) (auth.Identity, error) {
	found := c[chain[0].DNSNames[0]]
	switch {
	case found == "down":
		return auth.Identity{}, errors.New("cannot tell")
	case found == "" || login != "" && login != found:
		return auth.Identity{}, auth.ErrCredentials
	}
	return auth.Identity{Login: found, Backend: "certified"}, nil
}

// TestExternal: RFC 4422 appendix A. EXTERNAL is offered only to a client that has sent a certificate.
func TestExternal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		knows  certified
		shows  bool
		script string
	}{
		"empty":             {certified{"mail.example.com": "alice"}, true, "C: AUTH EXTERNAL =\nS: 235 2.7.0"},
		"no initial":        {certified{"mail.example.com": "alice"}, true, "C: AUTH EXTERNAL\nS: 334 \nC: \nS: 235 2.7.0"},
		"as oneself":        {certified{"mail.example.com": "alice"}, true, "C: AUTH EXTERNAL {=Alice}\nS: 235 2.7.0"},
		"as another":        {certified{"mail.example.com": "alice"}, true, "C: AUTH EXTERNAL {=ceo}\nS: 535 5.7.8"},
		"cancelled":         {certified{"mail.example.com": "alice"}, true, "C: AUTH EXTERNAL\nS: 334 \nC: *\nS: 501 5.7.0"},
		"no login":          {certified{"mail.example.com": "alice"}, true, "C: AUTH EXTERNAL {=a b}\nS: 501 5.5.2"},
		"unknown":           {certified{}, true, "C: AUTH EXTERNAL =\nS: 535 5.7.8"},
		"down":              {certified{"mail.example.com": "down"}, true, "C: AUTH EXTERNAL =\nS: 454 4.7.0"},
		"shows none":        {certified{"mail.example.com": "alice"}, false, "C: AUTH EXTERNAL =\nS: 504 5.5.4"},
		"passwords are not": {certified{"mail.example.com": "alice"}, true, "C: AUTH PLAIN {alice:secret}\nS: 504 5.5.4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asks := certificateOnce().Clone()
			asks.ClientAuth = tls.RequestClientCert
			s := start(t, wantsAuth, func(s *Server, _ *Listener) {
				s.Auth, s.TLS = []auth.Backend{c.knows}, func() *tls.Config { return asks }
			}, rules(t, "mail", `
				reject contains {"rule": "who", "message": sprintf("%v by %v, %v", [input.auth.login, input.auth.certificate.sans[0], count(input.auth.certificate.sha256)])}
				reject contains "verified" if input.tls.certificate`))
			client := s.talk(hello + "C: STARTTLS\nS: 220 2.0.0\n")
			config := &tls.Config{InsecureSkipVerify: true}
			if c.shows {
				config.Certificates = certificateOnce().Certificates
			}
			if err := client.upgrade(config); err != nil {
				t.Fatal(err)
			}
			after := "S: 530 5.7.0"
			if strings.Contains(c.script, "235") {
				after = "S: 550 5.7.1 alice by dns:mail.example.com, 64"
			}
			client.talk("C: EHLO client.example\nS: 250\n" + c.script + "\nC: MAIL FROM:<alice@example.com>\n" + after + quit)
		})
	}
}

// TestClientCertificateFacts: a client certificate is a fact only if an authority of the current configuration has signed it. The
// configuration may have been read after the start of the server.
func TestClientCertificateFacts(t *testing.T) {
	t.Parallel()
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(certificateOnce().Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	var current atomic.Pointer[tls.Config]
	outer := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil }}
	s := start(t, func(s *Server, _ *Listener) { s.TLS = func() *tls.Config { return outer } }, rules(t, "mail", `
		reject contains {"rule": "who", "message": sprintf("shown by %v", [input.tls.certificate.sans[0]])}`))
	for _, c := range []struct {
		authorities *x509.CertPool
		want        string
	}{{x509.NewCertPool(), "250 2.1.0"}, {pool, "550 5.7.1 shown by dns:mail.example.com"}, {nil, "250 2.1.0"}} {
		config := certificateOnce().Clone()
		config.ClientAuth, config.ClientCAs = tls.RequestClientCert, c.authorities
		current.Store(config)
		client := s.talk(hello + "C: STARTTLS\nS: 220 2.0.0\n")
		show := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &certificateOnce().Certificates[0], nil
		}
		if err := client.upgrade(&tls.Config{InsecureSkipVerify: true, GetClientCertificate: show}); err != nil {
			t.Fatal(err)
		}
		client.talk("C: EHLO client.example\nS: 250\nC: MAIL FROM:<alice@example.com>\nS: " + c.want + quit)
	}
}
