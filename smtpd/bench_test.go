package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/internal/message"
)

// BenchmarkSession is one message over a connection that stays open, without TLS, policy and network. It measures the cost of the
// front end.
func BenchmarkSession(b *testing.B) {
	s := startPipe(b, func(s *Server, _ *Listener) { s.Log, s.Limits.Messages = nil, 1<<30 })
	s.hop.discards = true
	s.hop.data = func(context.Context, *letter) (message.Reply, error) {
		return message.MustReply(250, "2.0.0", "Ok"), nil
	}
	c := s.talk(hello)
	body := []byte("MAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\nDATA\r\nSubject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 50) + ".\r\n")
	b.ReportAllocs()
	for b.Loop() {
		c.conn.Write(body)
		for range 4 {
			line, err := c.r.ReadSlice('\n')
			if err != nil || !bytes.HasPrefix(line, []byte("250")) && !bytes.HasPrefix(line, []byte("354")) {
				b.Fatalf("%q %v", line, err)
			}
		}
	}
}

// BenchmarkLogin is one connection with STARTTLS, one login and QUIT, with client and server in this process. Compare with
// the case "nobody", which does not log in. The SCRAM client derives its keys once, as clients do that keep them.
func BenchmarkLogin(b *testing.B) {
	first := scramUsers(b)
	s := start(b, func(s *Server, l *Listener) {
		first(s, l)
		s.Auth, s.Log = append(s.Auth, tokens{"s3cr3t": "alice"}), nil
		s.Limits.ConnectionsPerIP = 1000
	})
	maker, err := scram.SHA256.NewClient("alice", "pencil", "")
	if err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct{ name, script string }{
		{"nobody", ""},
		{"PLAIN-remembered", "C: AUTH PLAIN {alice:pencil}\nS: 235"},
		{"OAUTHBEARER-no-backend", "C: AUTH OAUTHBEARER " + encoded("n,,\x01auth=Bearer s3cr3t\x01\x01") + "\nS: 235"},
		{"SCRAM-SHA-256", ""},
	} {
		b.Run("way="+way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c := s.secured(tls.VersionTLS13)
				c.t = b
				if way.name == "SCRAM-SHA-256" {
					if got, err := c.scramAs(maker, way.name, nil); err != nil || !strings.HasPrefix(got, "235") {
						b.Fatal(got, err)
					}
				}
				c.talk(way.script + quit)
				c.conn.Close()
			}
		})
	}
}
