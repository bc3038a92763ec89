package smtpd

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-mail/postern/smtpd/auth"
)

// FuzzBearerMessage: what is read from a message was in it, and two readers could not read it differently.
func FuzzBearerMessage(f *testing.F) {
	for _, s := range []string{
		"n,a=alice,\x01host=mail.example.com\x01port=587\x01auth=Bearer t0ken\x01\x01", "n,,\x01auth=Bearer t\x01\x01", "y,a=al=2Cice=3D,\x01auth=bearer t\x01\x01",
		"user=alice\x01auth=Bearer t0ken\x01\x01", "n,a=,\x01auth=Bearer t\x01\x01", "p=x,,\x01auth=Bearer t\x01\x01", "", "\x01",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, read := range map[string]func(string) (string, string, bool){"OAUTHBEARER": readBearer, "XOAUTH2": readXOAuth2} {
			login, token, ok := read(s)
			switch {
			case !ok:
				continue
			case token == "" || strings.ContainsRune(token, 1) || !utf8.ValidString(s):
				t.Errorf("%s of %q: token %q", name, s, token)
			case name == "XOAUTH2" && !strings.HasPrefix(s, "user="+login+"\x01"):
				t.Errorf("%s of %q: login %q", name, s, login)
			case name == "OAUTHBEARER" && login != "" && !strings.Contains(s, ",a="+strings.NewReplacer("=", "=3D", ",", "=2C").Replace(login)+","):
				t.Errorf("%s of %q: login %q", name, s, login)
			}
			if strings.Count(strings.ToLower(s), "auth=bearer") == 0 {
				t.Errorf("%s of %q: a token out of nowhere", name, s)
			}
		}
	})
}

// FuzzScram: for all pairs of messages of a client, nothing panics, no login succeeds, and the exchange ends.
func FuzzScram(f *testing.F) {
	s := startPipe(f, wantsAuth, scramUsers(f), func(s *Server, _ *Listener) { s.Log = nil })
	if err := s.setup(); err != nil { // Serve does it as well, on another goroutine
		f.Fatal(err)
	}
	for _, first := range []string{"n,,n=alice,r=abc", "y,,n=alice,r=abc", "p=tls-exporter,,n=alice,r=abc", "n,a=alice,n=al=2Cice,r=abc,x=y", "n,,n=,r=", "n"} {
		f.Add(first, "c=biws,r=abc,p=AAAA")
		f.Add(first, "")
	}
	f.Fuzz(func(t *testing.T, first, final string) {
		// Without a connection: the mechanism itself, on a session that a server has made.
		session := s.newSession(t.Context(), Listener{Listener: nil, Name: "fuzz"}, nil)
		for _, name := range []string{auth.ScramSHA256, scramPlus} {
			m := session.mechanism(name)
			for i, answer := range []string{first, final, ""} {
				challenge, end := m.next([]byte(answer))
				if end.Code() == 235 || session.auth != nil {
					t.Fatalf("%s: logged in by %q, %q", name, first, final)
				}
				if !end.IsZero() {
					break
				}
				if i > 0 {
					t.Fatalf("%s: after %q the challenge %q", name, final, challenge)
				}
			}
		}
	})
}

// BenchmarkMechanism is the server's half of a mechanism, from the decoded answers to the reply, including the work of the
// backend with a remembered password.
func BenchmarkMechanism(b *testing.B) {
	s := startPipe(b, wantsAuth, scramUsers(b), func(s *Server, _ *Listener) {
		s.Auth, s.Log = append(s.Auth, tokens{"s3cr3t": "alice"}), nil
	})
	if err := s.setup(); err != nil { // Serve does it as well, on another goroutine
		b.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		answers []string
	}{
		{auth.Plain, []string{"\x00alice\x00pencil"}},
		{auth.LoginMech, []string{"alice", "pencil"}},
		{auth.XOAuth2, []string{"user=alice\x01auth=Bearer s3cr3t\x01\x01"}},
		{auth.ScramSHA256, []string{"n,,n=alice,r=abc"}}, // the first half only: the client's proof depends on the server's nonce
	} {
		b.Run("mechanism="+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m := s.newSession(b.Context(), Listener{Listener: nil, Name: "bench"}, nil).mechanism(c.name)
				for _, answer := range c.answers {
					if _, end := m.next([]byte(answer)); !end.IsZero() && end.Code() != 235 {
						b.Fatal(end)
					}
				}
			}
		})
	}
}
