package smtpd

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-mail/postern/smtpd/auth"
)

// TestRecentFacts: failures on earlier connections and logins elsewhere are facts for policy.
func TestRecentFacts(t *testing.T) {
	t.Parallel()
	logins := new(auth.RecentLogins)
	s := start(t, rules(t, "mail", `
		reject contains sprintf("%d %d", [input.client.recent_auth_failures, input.auth.recent_failures]) if input.envelope.from.local == "count"
		reject contains sprintf("%d", [input.client.recent_auth_failures]) if {
			input.envelope.from.local == "anonymous"
			not input.auth.login
		}
		reject contains sprintf("%s %v", [input.client.recent_login.login, input.client.recent_login.age < 60]) if input.envelope.from.local == "who"
		reject contains "nobody" if {
			input.envelope.from.local == "who"
			not input.client.recent_login
		}`), func(s *Server, _ *Listener) {
		s.Throttle, s.RecentLogins = &auth.Throttle{MaxDelay: time.Nanosecond, HalfLife: 1000 * time.Hour}, logins
	})
	s.talk(secure + `
		C: MAIL FROM:<anonymous@example.com>
		S: 550 5.7.1 0
		C: MAIL FROM:<who@example.com>
		S: 550 5.7.1 nobody
		C: AUTH PLAIN {alice:guess}
		S: 535
		C: AUTH PLAIN {mallory:guess}
		S: 535
	` + quit)
	if err := logins.Add(netip.MustParseAddr("127.0.0.1"), "bob"); err != nil {
		t.Fatal(err)
	}
	s.talk(secure + `
		C: MAIL FROM:<anonymous@example.com>
		S: 550 5.7.1 2
		C: AUTH PLAIN {alice:secret}
		S: 235
		C: MAIL FROM:<count@example.com>
		S: 550 5.7.1 2 1
		C: MAIL FROM:<who@example.com>
		S: 550 5.7.1 bob true
	` + quit)
}

// TestBackendsThatLie: a backend whose server is down, or sends anything but an approval, gives 454 and never 235. The next
// client is served.
func TestBackendsThatLie(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("250 2.0.0 OK\r\nOK\t1\tuser=alice\n"))
			c.Close()
		}
	}()
	lies := l.Addr().String()
	gone := lies[:len(lies)-1] + "x" // not a port
	for name, make := range map[string]func() (auth.Backend, error){
		"dovecot lies": func() (auth.Backend, error) { return auth.NewDovecot(auth.DovecotOptions{Address: lies}) },
		"dovecot down": func() (auth.Backend, error) {
			return auth.NewDovecot(auth.DovecotOptions{Address: "/nonexistent/auth"})
		},
		"ldap lies": func() (auth.Backend, error) {
			return auth.NewLDAP(auth.LDAPOptions{URLs: []string{"ldap://" + lies}, DN: "uid={login}"})
		},
		"ldap down": func() (auth.Backend, error) {
			return auth.NewLDAP(auth.LDAPOptions{URLs: []string{"ldapi:///nonexistent/ldapi"}, DN: "uid={login}"})
		},
		"radius down": func() (auth.Backend, error) {
			return auth.NewRADIUS(auth.RADIUSOptions{Servers: []string{gone}, Secret: "0123456789abcdef", Tries: 1, Timeout: 10 * time.Millisecond})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := make()
			if err != nil {
				t.Fatal(err)
			}
			s := start(t, func(s *Server, _ *Listener) { s.Auth = []auth.Backend{auth.NewCached(b, auth.CacheOptions{})} })
			for range 2 {
				s.talk(secure + `
					C: AUTH PLAIN {alice:secret}
					S: 454 4.7.0
					C: AUTH PLAIN {alice:secret}
					S: 454 4.7.0
				` + quit)
			}
		})
	}
}
