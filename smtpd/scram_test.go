package smtpd

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/smtpd/auth"
)

var scramLine = sync.OnceValue(func() string {
	v, err := auth.HashScram(rand.Reader, "pencil")
	if err != nil {
		panic(err)
	}
	return v
})

// scramUsers gives the server a users file with alice, whose password is pencil.
func scramUsers(t testing.TB) func(*Server, *Listener) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte("users:\n  alice: \""+scramLine()+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := auth.OpenFile(path, auth.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return func(s *Server, _ *Listener) { s.Auth = []auth.Backend{f} }
}

// secured connects and shakes hands with a TLS version.
func (s *site) secured(version uint16) *client {
	s.t.Helper()
	c := s.talk(hello + "C: STARTTLS\nS: 220 2.0.0\n")
	if err := c.upgrade(&tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}); err != nil {
		s.t.Fatal(err)
	}
	c.talk("C: EHLO client.example\nS: 250 mail.example.com")
	return c
}

// scram runs an exchange as a client would, up to the reply that ends it.
func (c *client) scram(mechanism, user, password, authzid string, binding *scram.ChannelBinding) (string, error) {
	c.t.Helper()
	maker, err := scram.SHA256.NewClient(user, password, authzid)
	if err != nil {
		return "", err
	}
	return c.scramAs(maker, mechanism, binding)
}

// scramAs is scram with a client that may have derived its keys before.
func (c *client) scramAs(maker *scram.Client, mechanism string, binding *scram.ChannelBinding) (string, error) {
	c.t.Helper()
	talk := maker.NewConversation()
	switch {
	case binding != nil && binding.IsSupported():
		talk = maker.NewConversationWithChannelBinding(*binding)
	case binding != nil: // the client could bind, but does not see that the server can
		talk = maker.NewConversationAdvertisingChannelBinding()
	}
	said := ""
	for step := 0; ; step++ {
		answer, err := talk.Step(said)
		if err != nil {
			return "", err
		}
		line := base64.StdEncoding.EncodeToString([]byte(answer))
		if step == 0 {
			line = "AUTH " + mechanism + " " + line
		}
		if err := c.write(line + "\r\n"); err != nil {
			return "", err
		}
		reply, err := c.reply()
		if err != nil {
			return "", err
		}
		challenge, goesOn := strings.CutPrefix(reply, "334 ")
		if !goesOn {
			if strings.HasPrefix(reply, "235") && !talk.Valid() {
				return "", fmt.Errorf("the server has proved nothing")
			}
			return reply, nil
		}
		b, err := base64.StdEncoding.DecodeString(challenge)
		if err != nil {
			return "", err
		}
		said = string(b)
	}
}

// bind makes the client's side of a channel binding.
func (c *client) bind(t *testing.T, kind scram.ChannelBindingType) *scram.ChannelBinding {
	t.Helper()
	state := c.conn.(*tls.Conn).ConnectionState()
	b, err := scram.ChannelBinding{}, error(nil)
	switch kind {
	case scram.ChannelBindingTLSExporter:
		b, err = scram.NewTLSExporterBinding(&state)
	case scram.ChannelBindingTLSServerEndpoint:
		b, err = scram.NewTLSServerEndpointBinding(&state)
	case scram.ChannelBindingTLSUnique:
		b = scram.NewTLSUniqueBinding(state.TLSUnique)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestScram: the mechanism with every channel binding, against another implementation of the client.
func TestScram(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, scramUsers(t))
	const plus = scramPlus
	for name, c := range map[string]struct {
		version                         uint16
		mechanism, user, pass, as, bind string
		want                            string
	}{
		"plain":               {tls.VersionTLS13, auth.ScramSHA256, "alice", "pencil", "", "", "235 2.7.0"},
		"case of the login":   {tls.VersionTLS13, auth.ScramSHA256, "Alice", "pencil", "", "", "235 2.7.0"},
		"authzid is login":    {tls.VersionTLS13, auth.ScramSHA256, "alice", "pencil", "alice", "", "235 2.7.0"},
		"authzid of another":  {tls.VersionTLS13, auth.ScramSHA256, "alice", "pencil", "ceo", "", "535 5.7.8"},
		"wrong password":      {tls.VersionTLS13, auth.ScramSHA256, "alice", "pencils", "", "", "535 5.7.8 Authentication credentials invalid"},
		"unknown login":       {tls.VersionTLS13, auth.ScramSHA256, "mallory", "pencil", "", "", "535 5.7.8 Authentication credentials invalid"},
		"no login":            {tls.VersionTLS13, auth.ScramSHA256, "a b", "pencil", "", "", "535 5.7.8 Authentication credentials invalid"},
		"exporter 1.3":        {tls.VersionTLS13, plus, "alice", "pencil", "", "tls-exporter", "235 2.7.0"},
		"exporter 1.2":        {tls.VersionTLS12, plus, "alice", "pencil", "", "tls-exporter", "235 2.7.0"},
		"end point 1.3":       {tls.VersionTLS13, plus, "alice", "pencil", "", "tls-server-end-point", "235 2.7.0"},
		"end point 1.2":       {tls.VersionTLS12, plus, "alice", "pencil", "", "tls-server-end-point", "235 2.7.0"},
		"unique 1.2":          {tls.VersionTLS12, plus, "alice", "pencil", "", "tls-unique", "235 2.7.0"},
		"plus, wrong":         {tls.VersionTLS13, plus, "alice", "pencils", "", "tls-exporter", "535 5.7.8"},
		"plus without":        {tls.VersionTLS13, plus, "alice", "pencil", "", "", "501 5.5.2"},
		"binding, not plus":   {tls.VersionTLS13, auth.ScramSHA256, "alice", "pencil", "", "tls-exporter", "501 5.5.2"},
		"plus was taken out":  {tls.VersionTLS13, auth.ScramSHA256, "alice", "pencil", "", "y", "535 5.7.8"},
		"binding of another":  {tls.VersionTLS13, plus, "alice", "pencil", "", "stolen", "535 5.7.8"},
		"unique over TLS 1.3": {tls.VersionTLS13, plus, "alice", "pencil", "", "forged tls-unique", "501 5.5.2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := s.secured(c.version)
			var binding *scram.ChannelBinding
			switch c.bind {
			case "":
			case "y":
				binding = &scram.ChannelBinding{}
			case "stolen": // an attacker forwards messages from another connection
				binding = s.secured(c.version).bind(t, scram.ChannelBindingTLSExporter)
			case "forged tls-unique":
				binding = &scram.ChannelBinding{Type: scram.ChannelBindingTLSUnique, Data: []byte("x")}
			default:
				binding = client.bind(t, scram.ChannelBindingType(c.bind))
			}
			got, err := client.scram(c.mechanism, c.user, c.pass, c.as, binding)
			if err != nil || !strings.HasPrefix(got, c.want) {
				t.Fatalf("%q, %v", got, err)
			}
			after := "S: 530 5.7.0"
			if strings.HasPrefix(got, "235") {
				after = "S: 250 2.1.0"
			}
			client.talk("C: MAIL FROM:<alice@example.com>\n" + after + quit)
		})
	}
}

// TestScramByPassword: a verifier serves PLAIN and LOGIN too.
func TestScramByPassword(t *testing.T) {
	t.Parallel()
	start(t, wantsAuth, scramUsers(t)).talk(secure + `
		C: AUTH PLAIN {alice:pencils}
		S: 535 5.7.8
		C: AUTH PLAIN {alice:pencil}
		S: 235 2.7.0
	` + envelope + message1 + quit)
}

// TestScramCancelled: a client that cancels after the server's proof is not logged in, although its own proof was right.
func TestScramCancelled(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, scramUsers(t))
	for name, last := range map[string]string{"cancel": "*", "nonsense": "AAAA", "not base64": "!"} {
		t.Run(name, func(t *testing.T) {
			c := s.secured(tls.VersionTLS13)
			maker, err := scram.SHA256.NewClient("alice", "pencil", "")
			if err != nil {
				t.Fatal(err)
			}
			talk, said := maker.NewConversation(), ""
			c.talk("C: AUTH " + auth.ScramSHA256 + "\nS: 334 ")
			for range 2 {
				answer, err := talk.Step(said)
				if err != nil {
					t.Fatal(err)
				}
				c.write(base64.StdEncoding.EncodeToString([]byte(answer)) + "\r\n")
				reply, err := c.reply()
				if err != nil || !strings.HasPrefix(reply, "334 ") {
					t.Fatal(reply, err)
				}
				b, _ := base64.StdEncoding.DecodeString(reply[4:])
				said = string(b)
			}
			c.talk("C: " + last + "\nS: 501\nC: MAIL FROM:<alice@example.com>\nS: 530 5.7.0" + quit)
		})
	}
}

// TestScramTellsNothing: an unknown login has a salt, which is always the same, and as many iterations as the others.
func TestScramTellsNothing(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, scramUsers(t))
	first := func(user string) (salt, iterations string) {
		c := s.secured(tls.VersionTLS13)
		c.write("AUTH SCRAM-SHA-256 " + base64.StdEncoding.EncodeToString([]byte("n,,n="+user+",r=abc")) + "\r\n")
		reply, err := c.reply()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(reply, "334 "))
		parts := strings.Split(string(b), ",")
		if len(parts) != 3 {
			t.Fatalf("%q", reply)
		}
		return parts[1], parts[2]
	}
	salt, iterations := first("alice")
	one, n := first("mallory")
	again, _ := first("Mallory")
	other, _ := first("oscar")
	if one != again || one == other || one == salt || len(one) != len(salt) || n != iterations {
		t.Errorf("alice %s %s, mallory %s %s, then %s; oscar %s", salt, iterations, one, n, again, other)
	}
}

// TestScramMalformed: malformed messages are no failed logins, and do not succeed.
func TestScramMalformed(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, scramUsers(t), limits(func(l *Limits) { l.AuthFailures = 1 }))
	c := s.secured(tls.VersionTLS13)
	for _, first := range []string{
		"", "n", "n,,", "n,,n=alice", "x,,n=alice,r=abc", "n,b=alice,n=alice,r=abc", "n,,m=ext,n=alice,r=abc", "n,,n=al=ice,r=abc",
		"p=,,n=alice,r=abc", "n,,n=\xff,r=abc",
	} {
		c.write("AUTH SCRAM-SHA-256 " + encoded(first) + "\r\n")
		if reply, err := c.reply(); err != nil || !strings.HasPrefix(reply, "501 5.5.2") {
			t.Errorf("%q: %s, %v", first, reply, err)
		}
	}
	c.talk("C: AUTH SCRAM-SHA-256-PLUS " + encoded("p=tls-cloud,,n=alice,r=abc") + "\nS: 501 5.5.2")
	c.talk("C: AUTH SCRAM-SHA-1 " + encoded("n,,n=alice,r=abc") + "\nS: 504 5.5.4" + quit)
	for _, final := range []string{"", "c=biws", "c=biws,r=abc,p=AAAA", "c=biws,r=xyz,p=AAAA", "p=AAAA,c=biws,r=abc", "c=,r=abc,p="} {
		s.secured(tls.VersionTLS13).talk("C: AUTH SCRAM-SHA-256 " + encoded("n,,n=alice,r=abc") + "\nS: 334\nC: " + encoded(final) + "\nS: 421 4.7.0")
	}
}

func encoded(s string) string {
	if s == "" {
		return "="
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

// TestMechanismsOfAListener: EHLO names the mechanisms that are served and allowed, and AUTH accepts no others.
func TestMechanismsOfAListener(t *testing.T) {
	t.Parallel()
	offered := func(s *site) string {
		c := s.talk(hello + "C: STARTTLS\nS: 220 2.0.0\nTLS\nC: EHLO client.example")
		reply, err := c.reply()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(reply, " | ") {
			if list, is := strings.CutPrefix(line, "AUTH "); is {
				return list
			}
		}
		return ""
	}
	only := func(list ...string) func(*Server, *Listener) {
		return func(_ *Server, l *Listener) { l.Mechanisms = list }
	}
	nobody := func(s *Server, _ *Listener) { s.Auth = nil }
	for name, c := range map[string]struct {
		change []func(*Server, *Listener)
		want   string
	}{
		"all":           {nil, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		"one":           {[]func(*Server, *Listener){only("SCRAM-SHA-256")}, "SCRAM-SHA-256"},
		"another order": {[]func(*Server, *Listener){only("LOGIN", "PLAIN")}, "PLAIN LOGIN"},
		"not served":    {[]func(*Server, *Listener){only("EXTERNAL", "OAUTHBEARER")}, ""},
		"no backend":    {[]func(*Server, *Listener){nobody}, ""},
	} {
		if got := offered(start(t, append([]func(*Server, *Listener){scramUsers(t)}, c.change...)...)); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	start(t, wantsAuth, scramUsers(t), only("SCRAM-SHA-256-PLUS")).talk(secure + `
		C: AUTH PLAIN {alice:pencil}
		S: 534 5.7.9
		C: AUTH SCRAM-SHA-256
		S: 534 5.7.9
		C: AUTH EXTERNAL =
		S: 504 5.5.4
	` + quit)
	start(t, scramUsers(t), func(s *Server, _ *Listener) { s.TLS = nil }).talk(hello + "C: AUTH PLAIN {alice:pencil}\nS: 538 5.7.11" + quit)
}

// TestYesWithoutPlus: if -PLUS is not allowed, a client that could bind may say that it has not seen it.
func TestYesWithoutPlus(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, scramUsers(t), func(_ *Server, l *Listener) { l.Mechanisms = []string{auth.ScramSHA256} })
	if got, err := s.secured(tls.VersionTLS13).scram(auth.ScramSHA256, "alice", "pencil", "", &scram.ChannelBinding{}); err != nil || !strings.HasPrefix(got, "235") {
		t.Errorf("%q, %v", got, err)
	}
}

// TestScramResumed: a resumed TLS session can be bound too, and sessions are resumed.
func TestScramResumed(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, scramUsers(t))
	cache := tls.NewLRUClientSessionCache(4)
	for i := range 3 {
		for _, kind := range []scram.ChannelBindingType{scram.ChannelBindingTLSExporter, scram.ChannelBindingTLSServerEndpoint} {
			c := s.talk(hello + "C: STARTTLS\nS: 220 2.0.0\n")
			if err := c.upgrade(&tls.Config{InsecureSkipVerify: true, ServerName: "mail.example.com", ClientSessionCache: cache}); err != nil {
				t.Fatal(err)
			}
			c.talk("C: EHLO client.example\nS: 250")
			if resumed := c.conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i > 0 || kind != scram.ChannelBindingTLSExporter) {
				t.Errorf("connection %d, %s: resumed %v", i, kind, resumed)
			}
			if got, err := c.scram(scramPlus, "alice", "pencil", "", c.bind(t, kind)); err != nil || !strings.HasPrefix(got, "235") {
				t.Errorf("connection %d, %s: %q, %v", i, kind, got, err)
			}
			c.talk(quit)
		}
	}
}
