package smtpd

import (
	"crypto/tls"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testpipe"
)

// authStates are the octets that bring a session under TLS into a state, in which the octets of the fuzzer begin.
var authStates = []string{
	"EHLO x\r\n",
	"EHLO x\r\nAUTH PLAIN\r\n",
	"EHLO x\r\nAUTH LOGIN\r\n",
	"EHLO x\r\nAUTH LOGIN\r\nYWxpY2U=\r\n",
	"EHLO x\r\nAUTH LOGIN YWxpY2U=\r\n",
	"EHLO x\r\nAUTH PLAIN AGFsaWNlAFRyMHViNGRvcg==\r\n",
	"EHLO x\r\nAUTH PLAIN AGFsaWNlAHdyb25n\r\n",
}

const fuzzPassword = "Tr0ub4dor"

// FuzzAuthDialogue: for all octets in place of a SASL exchange, no client is authenticated without the password, nothing is accepted
// from an unauthenticated client, every reply is well-formed, the password is in no log, and the result is the same if the octets
// come one by one.
func FuzzAuthDialogue(f *testing.F) {
	for i := range authStates {
		for _, s := range []string{
			"AGFsaWNlAFRyMHViNGRvcg==\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\nDATA\r\nx: y\r\n\r\n.\r\n", "*\r\nNOOP\r\n", "VHIwdWI0ZG9y\r\nMAIL FROM:<a@b.example>\r\n", "=\r\n=\r\n", "AUTH PLAIN AGFsaWNlAFRyMHViNGRvcg==\r\nAUTH PLAIN\r\n",
			"AUTH PLAIN YWxpY2UAYWxpY2UAVHIwdWI0ZG9y\r\nRSET\r\n", "AUTH PLAIN Ym9iAGFsaWNlAFRyMHViNGRvcg==\r\n", "AUTH PLAIN AGFsaWNlAFRyMHViNGRvcg\r\nMAIL FROM:<a@b.example>\r\n", "MAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\n", strings.Repeat("A", 13000) + "\r\nNOOP\r\n", "AUTH XOAUTH2 eA==\r\nAUTH EXTERNAL =\r\nauth login\r\n",
			"AGFsaWNlAFRyMHViNGRvcg==\nMAIL FROM:<a@b.example>\r\n", "AGFsaWNl\x00AFRyMHViNGRvcg==\r\n", "RSET\r\nEHLO y\r\nAUTH LOGIN YWxpY2U=\r\nVHIwdWI0ZG9y\r\nSTARTTLS\r\n",
		} {
			f.Add(byte(i), []byte(s))
		}
	}
	s := startPipe(f, wantsAuth, limits(func(l *Limits) { l.AuthFailures, l.Errors = 3, 8 }), func(s *Server, l *Listener) {
		l.TLS, s.Auth[0] = true, users{"alice": fuzzPassword}
	})
	f.Fuzz(func(t *testing.T, state byte, input []byte) {
		text := authStates[int(state)%len(authStates)] + string(input)
		s.log.mu.Lock()
		s.log.buf.Reset()
		s.log.mu.Unlock()
		whole := s.underTLS(t, text)
		if sent := passwordSent(text); !sent && strings.Contains("\n"+whole, "\n235 ") {
			t.Fatalf("%q lets in:\n%s", text, whole)
		} else if sent && strings.Count(s.log.String(), fuzzPassword) > 0 && !strings.Contains(text, fuzzPassword) && !strings.Contains(text, "LOGIN") && !strings.Contains(text, "login") && strings.Count(text, "VHIwdWI0ZG9y") == 0 {
			t.Fatalf("%q: the log has the password: %s", text, s.log.String())
		}
		in := false
		for reply := range strings.SplitSeq(whole, "\n") {
			in = in || strings.HasPrefix(reply, "235 ")
			if !in && (strings.HasPrefix(reply, "354 ") || strings.HasPrefix(reply, "250 2.1.0 ") || strings.HasPrefix(reply, "250 2.1.5 ")) {
				t.Fatalf("%q: nobody is in, and is told %q:\n%s", text, reply, whole)
			}
		}
		if len(text) < 400 {
			if octets := s.underTLS(t, strings.Split(text, "")...); octets != whole {
				t.Fatalf("%q at once gives\n%s\none octet at a time\n%s", text, whole, octets)
			}
		}
	})
}

// passwordSent reports whether a word of a dialogue contains the password, as PLAIN or LOGIN would send it.
func passwordSent(text string) bool {
	for _, word := range strings.Fields(text) {
		if plain, err := base64.StdEncoding.DecodeString(word); err == nil && strings.HasSuffix(string(plain), fuzzPassword) {
			return true
		}
	}
	return false
}

// underTLS speaks to a listener of implicit TLS, and returns its replies.
func (s *site) underTLS(t *testing.T, pieces ...string) string {
	t.Helper()
	s.hop.mu.Lock()
	s.hop.t, s.hop.letters = t, nil
	s.hop.mu.Unlock()
	raw, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	for _, p := range pieces {
		if _, err := io.WriteString(conn, p); err != nil {
			break // the server has hung up
		}
	}
	_ = conn.CloseWrite()
	_ = raw.(*testpipe.End).CloseWrite()
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	replies, err := cutReplies(string(all))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(replies, "\n")
}
