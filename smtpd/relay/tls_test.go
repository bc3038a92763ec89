package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
)

const unreached = "451 4.4.1 The next mail server cannot be reached, try again later"

// TestTLS: which certificates are accepted, and what happens without TLS. A message that requires TLS is not sent without it, and
// nothing is sent in the clear after TLS has failed.
func TestTLS(t *testing.T) {
	ca := testCA()
	good, expired, stranger, other := ca.server("127.0.0.1"), ca.expired("127.0.0.1"), ca.stranger("127.0.0.1"), ca.server("mail.example")
	for _, tc := range []struct {
		name       string
		cert       *tls.Config // nil: STARTTLS is not offered
		implicit   bool
		mode       StartTLS
		serverName string
		under      bool
		cause      string // of the failure; "": it works
	}{
		{"auto, good", good, false, StartTLSAuto, "", true, ""},
		{"auto, nobody vouches", stranger, false, StartTLSAuto, "", true, ""},
		{"auto, expired", expired, false, StartTLSAuto, "", true, ""},
		{"auto, other name", other, false, StartTLSAuto, "", true, ""},
		{"auto, stripped", nil, false, StartTLSAuto, "", false, ""},
		{"off", good, false, StartTLSOff, "", false, ""},
		{"required, good", good, false, StartTLSRequired, "", true, ""},
		{"required, name given", other, false, StartTLSRequired, "mail.example", true, ""},
		{"required, nobody vouches", stranger, false, StartTLSRequired, "", false, "certificate signed by unknown authority"},
		{"required, expired", expired, false, StartTLSRequired, "", false, "expired"},
		{"required, other name", other, false, StartTLSRequired, "", false, "doesn't contain any IP SANs"},
		{"required, stripped", nil, false, StartTLSRequired, "", false, "STARTTLS is required and not offered"},
		{"required, too old", old(good), false, StartTLSRequired, "", false, "protocol version"},
		{"smtps, good", good, true, StartTLSAuto, "", true, ""},
		{"smtps, starttls off", good, true, StartTLSOff, "", true, ""},
		{"smtps, nobody vouches", stranger, true, StartTLSAuto, "", false, "certificate signed by unknown authority"},
		{"smtps, expired", expired, true, StartTLSOff, "", false, "expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hop := startHop(t, script{tls: tc.cert, implicit: tc.implicit})
			h := openHop(t, Options{StartTLS: tc.mode, CAs: ca.pool, ServerName: tc.serverName}, hop.url)
			err := send(h, "X1", small)
			if tc.cause == "" {
				if _, _, _, mails := hop.seen(); err != nil || len(mails) != 1 || mails[0].tls != tc.under {
					t.Errorf("got %v, %d mails", err, len(mails))
				}
				return
			}
			if e := wantError(t, err, stageConnect, unreached); e.Cause == nil || !strings.Contains(e.Cause.Error(), tc.cause) {
				t.Errorf("cause: %v, want %q", e.Cause, tc.cause)
			}
			if hop.said("MAIL") {
				t.Error("MAIL was sent all the same")
			}
		})
	}
}

// old is a server that supports at most TLS 1.1, which RFC 8996 forbids.
func old(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	return c
}

// TestStartTLSForgets: replies in the clear are forgotten under TLS (RFC 3207 §4.2), so EHLO is sent again.
func TestStartTLSForgets(t *testing.T) {
	hop := startHop(t, script{tls: testCA().server("127.0.0.1"), at: func(c *fakeConn, stage string) bool {
		if _, under := c.nc.(*tls.Conn); stage == "EHLO" && !under {
			return c.write("250-fake.example\r\n250-STARTTLS\r\n250-SIZE 1\r\n250-AUTH PLAIN\r\n250 SMTPUTF8\r\n") || c.dialogue()
		}
		return false
	}, caps: without("SMTPUTF8")})
	h := openHop(t, Options{}, hop.url)
	if err := send(h, "X1", small); err != nil {
		t.Errorf("SIZE from before TLS was held against it: %v", err)
	}
	if e := failure(t, transferWith(h, "<é@example.com>", nil, "<b@example.net>", nil, plainText)); e.Reply.Status() != "5.6.7" {
		t.Errorf("SMTPUTF8 from before TLS was believed: %v", e)
	}
}

// TestStartTLSInjection: replies in the clear behind STARTTLS's 220 are not taken for replies under TLS (the client's side of
// CVE-2011-0411), whether they come with the 220 or later.
func TestStartTLSInjection(t *testing.T) {
	for name, reply := range map[string]string{
		"with the reply": "220 Go on\r\n250-evil.example\r\n250 AUTH PLAIN\r\n",
		"half a line":    "220 Go on\r\n2",
		"refused":        "454 4.7.0 TLS not available\r\n",
		"not 220":        "250 Ok\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			hop := startHop(t, script{tls: testCA().server("127.0.0.1"), say: map[string]string{"STARTTLS": reply}})
			h := openHop(t, Options{Login: "postern", Password: "secret"}, hop.url)
			wantError(t, send(h, "X1", small), stageConnect, unreached)
			if hop.said("MAIL") || hop.said("AUTH") {
				t.Error("the dialogue went on")
			}
		})
	}
	t.Run("in a segment of its own", func(t *testing.T) {
		hop := startHop(t, script{tls: testCA().server("127.0.0.1"), at: func(c *fakeConn, stage string) bool {
			return stage == "tls" && c.write("250-evil.example\r\n250 AUTH PLAIN\r\n")
		}})
		wantError(t, send(openHop(t, Options{}, hop.url), "X1", small), stageConnect, unreached)
	})
}

// TestBehindReplyUnderTLS: a TLS record behind a reply in the same segment is noticed before the connection is used again. It would be
// taken for the next reply.
func TestBehindReplyUnderTLS(t *testing.T) {
	hop := startHop(t, script{tls: testCA().server("127.0.0.1"), at: func(c *fakeConn, stage string) bool {
		if stage != "dot X1" {
			return false
		}
		tc := c.nc.(*tls.Conn)
		below := tc.NetConn().(*replayed)
		both := &gathered{Conn: below.Conn}
		below.Conn = both
		_, _ = io.WriteString(tc, "250 2.0.0 Ok\r\n")
		_, _ = io.WriteString(tc, "250 2.0.0 And another\r\n")
		_, _ = both.Conn.Write(both.b)
		_, _ = io.ReadAll(c.rd)
		return true
	}})
	h := openHop(t, Options{}, hop.url)
	if err := send(h, "X1", small); err != nil {
		t.Fatal(err)
	}
	if err := send(h, "X2", small); err != nil {
		t.Errorf("the second message: %v", err)
	}
	if conns, _, _, _ := hop.seen(); conns != 2 {
		t.Errorf("%d connections", conns)
	}
}

// gathered keeps what is written to it.
type gathered struct {
	net.Conn
	b []byte
}

func (g *gathered) Write(p []byte) (int, error) { g.b = append(g.b, p...); return len(p), nil }

// TestLogin: AUTH at the next hop. The password is sent only under TLS or to loopback, and is never in a log or an error.
func TestLogin(t *testing.T) {
	const plain, login = "PLAIN  postern s3cret!", "LOGIN postern s3cret!"
	cert := testCA().server("127.0.0.1")
	for _, tc := range []struct {
		name  string
		s     script
		far   bool // the next hop seems to be on another machine
		mode  StartTLS
		login string
		cause string // "": it works
	}{
		{"PLAIN", script{}, false, StartTLSAuto, plain, ""},
		{"LOGIN", script{caps: []string{"AUTH LOGIN CRAM-MD5"}}, false, StartTLSAuto, login, ""},
		{"keywords in lower case", script{caps: []string{"auth login plain"}}, false, StartTLSAuto, plain, ""},
		{"nothing that we know", script{caps: []string{"AUTH CRAM-MD5"}}, false, StartTLSAuto, "", "neither PLAIN nor LOGIN is offered"},
		{"no AUTH", script{caps: []string{}}, false, StartTLSAuto, "", "neither PLAIN nor LOGIN is offered"},
		{"refused", script{say: map[string]string{"AUTH": "535 5.7.8 Bad\r\n"}}, false, StartTLSAuto, plain, "535 5.7.8 Bad"},
		{"refused for now", script{say: map[string]string{"AUTH": "454 4.7.0 Later\r\n"}}, false, StartTLSAuto, plain, "454 4.7.0 Later"},
		{"endless challenge", script{say: map[string]string{"AUTH": "334 UGFzc3dvcmQ6\r\n"}}, false, StartTLSAuto, plain, "unexpected server challenge"},
		{"challenge that is none", script{caps: []string{"AUTH LOGIN"}, say: map[string]string{"challenge": "334 ???\r\n"}}, false, StartTLSAuto, "LOGIN postern ", "illegal base64"},
		{"far, TLS", script{tls: cert}, true, StartTLSAuto, plain, ""},
		{"far, TLS required", script{tls: cert}, true, StartTLSRequired, plain, ""},
		{"far, TLS of nobody", script{tls: testCA().stranger("127.0.0.1")}, true, StartTLSAuto, "", "unknown authority"},
		{"far, stripped", script{}, true, StartTLSAuto, "", "STARTTLS is required and not offered"},
		{"far, TLS off", script{tls: cert}, true, StartTLSOff, "", "the password is not sent without TLS"},
		{"far, smtps", script{tls: cert, implicit: true}, true, StartTLSOff, plain, ""},
		{"unix socket", script{unix: true, lmtp: true}, false, StartTLSAuto, plain, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hop := startHop(t, tc.s)
			var log bytes.Buffer
			o := Options{Login: "postern", Password: "s3cret!", CAs: testCA().pool, StartTLS: tc.mode, Log: slog.New(slog.NewTextHandler(&log, nil))}
			if tc.far {
				o.Dial = dialFar
			}
			h := openHop(t, o, hop.url)
			err := send(h, "X1", small)
			if tc.cause == "" && err != nil {
				t.Errorf("got %v", err)
			} else if tc.cause != "" {
				if e := wantError(t, err, stageConnect, unreached); e.Cause == nil || !strings.Contains(e.Cause.Error(), tc.cause) {
					t.Errorf("cause: %v, want %q", e.Cause, tc.cause)
				}
				if hop.said("MAIL") || strings.Contains(err.Error()+log.String(), "s3cret") {
					t.Errorf("MAIL was sent, or the password is in %v\n%s", err, log.String())
				}
			}
			_ = h.Close()
			hop.stop()
			if got := strings.Join(hop.logins, ","); strings.TrimSpace(got) != strings.TrimSpace(tc.login) && tc.name != "challenge that is none" {
				t.Errorf("logged in with %q, want %q", got, tc.login)
			}
		})
	}
}

// TestEmptyResponse: an empty response to a challenge is an empty line; "=" stands for one in the AUTH command alone (RFC 4954 §4).
func TestEmptyResponse(t *testing.T) {
	hop := startHop(t, script{caps: []string{"AUTH LOGIN"}, at: func(c *fakeConn, stage string) bool {
		if stage != "AUTH" {
			return false
		}
		c.write("334 UGFzc3dvcmQ6\r\n")
		line, _ := c.rd.ReadString('\n')
		return line != "\r\n" || c.write("235 2.7.0 Ok\r\n") || c.dialogue()
	}})
	if err := send(openHop(t, Options{Login: "postern"}, hop.url), "X1", small); err != nil {
		t.Error(err)
	}
}

// far is a connection that seems to go to another machine.
type far struct{ net.Conn }

func (far) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }

func dialFar(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	return far{nc}, err
}

// TestResumption: the second connection resumes the session of the first, in TLS 1.2 and 1.3. A session whose certificate was not
// verified is not resumed where verification is required.
func TestResumption(t *testing.T) {
	ca := testCA()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, mode := range []StartTLS{StartTLSAuto, StartTLSRequired} {
			var resumed []bool
			cert := ca.server("127.0.0.1").Clone()
			cert.MaxVersion = version
			cert.VerifyConnection = func(s tls.ConnectionState) error { resumed = append(resumed, s.DidResume); return nil }
			hop := startHop(t, script{tls: cert})
			h := openHop(t, Options{StartTLS: mode, CAs: ca.pool, Pool: Pool{MaxIdle: -1}}, hop.url)
			for range 3 {
				if err := send(h, "X1", small); err != nil {
					t.Fatal(err)
				}
			}
			if len(resumed) != 3 || resumed[0] || !resumed[1] || !resumed[2] {
				t.Errorf("TLS %s, %v: resumed %v", tls.VersionName(version), mode, resumed)
			}
		}
	}
	cert := ca.stranger("127.0.0.1")
	hop := startHop(t, script{tls: cert})
	careless := openHop(t, Options{StartTLS: StartTLSAuto, CAs: ca.pool, Pool: Pool{MaxIdle: -1}}, hop.url)
	if err := send(careless, "X1", small); err != nil {
		t.Fatal(err)
	}
	careful := openHop(t, Options{StartTLS: StartTLSRequired, CAs: ca.pool, Pool: Pool{MaxIdle: -1}}, hop.url)
	careful.(*SMTP).sessions = careless.(*SMTP).sessions
	if e := wantError(t, send(careful, "X2", small), stageConnect, unreached); e.Cause == nil || !strings.Contains(e.Cause.Error(), "unknown authority") {
		t.Errorf("cause: %v", e.Cause)
	}
}
