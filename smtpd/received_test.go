package smtpd

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// noon is the time at which these messages are received.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// TestReceived: the field on top (RFC 5321 §4.4), full, private, and by a template. ID stands for the id of the transaction.
func TestReceived(t *testing.T) {
	t.Parallel()
	const date = "; Mon, 01 Jun 2026 12:00:00 +0000"
	for name, tt := range map[string]struct{ template, begin, want string }{
		"full":     {"", secure + "C: AUTH PLAIN {alice:secret}\nS: 235", "from client.example ([127.0.0.1]) by mail.example.com with ESMTPSA (TLS1.3 TLS_AES_128_GCM_SHA256) id ID for <bob@example.net>" + date},
		"no auth":  {"full", secure, "from client.example ([127.0.0.1]) by mail.example.com with ESMTPS (TLS1.3 TLS_AES_128_GCM_SHA256) id ID for <bob@example.net>" + date},
		"no TLS":   {"full", hello, "from client.example ([127.0.0.1]) by mail.example.com with ESMTP id ID for <bob@example.net>" + date},
		"HELO":     {"full", "S: 220\nC: HELO [192.0.2.1]\nS: 250", "from [192.0.2.1] ([127.0.0.1]) by mail.example.com with SMTP id ID for <bob@example.net>" + date},
		"private":  {"private", secure + "C: AUTH PLAIN {alice:secret}\nS: 235", "by mail.example.com with ESMTPSA id ID" + date},
		"own":      {"by {hostname} ({login}) id {id} {for}; {date}", secure + "C: AUTH PLAIN {alice:secret}\nS: 235", "by mail.example.com (alice) id ID for <bob@example.net>" + date},
		"no login": {"by {hostname} ({login}) id {id}; {date}", hello, "by mail.example.com (unknown) id ID" + date},
		"odd EHLO": {"full", "S: 220\nC: EHLO a_b!c{for}\nS: 250", "from a_b?c?for? ([127.0.0.1]) by mail.example.com with ESMTP id ID for <bob@example.net>" + date},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(s *Server, _ *Listener) {
				s.Received, s.Clock = tt.template, func() time.Time { return noon }
			})
			s.talk(tt.begin + envelope + message1 + quit)
			got := regexp.MustCompile(` id [0-9A-Z]{16}`).ReplaceAllString(s.hop.got()[0].received(), " id ID")
			if got != "Received: "+tt.want {
				t.Errorf("got  %s\nwant Received: %s", got, tt.want)
			}
			for line := range strings.SplitSeq(string(s.hop.got()[0].body), "\r\n") {
				if len(line) > 78 { // RFC 5322 §2.1.1; the words are short here
					t.Errorf("a line of %d octets: %s", len(line), line)
				}
			}
		})
	}
}

// TestReceivedOfSeveral: with several recipients there is no "for", which would show one recipient to another.
func TestReceivedOfSeveral(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + envelope + "C: RCPT TO:<carol@example.net>\nS: 250" + message1 + quit)
	if got := s.hop.got()[0].received(); strings.Contains(got, "example.net") || strings.Contains(got, " for ") {
		t.Errorf("%s", got)
	}
}

// TestReceivedIsAField: for all names of a client and all recipients, the lines are short if the words are, and no other reader
// could see the end of the header in the field.
func TestReceivedIsAField(t *testing.T) {
	t.Parallel()
	s := start(t)
	long := strings.Repeat("x.", 127) + "x"
	s.talk("S: 220\nC: EHLO " + long + "\nS: 250\nC: MAIL FROM:<>\nS: 250\nC: RCPT TO:<\"a  b\\\"; c\"@" + strings.Repeat("y.", 90) + "y>\nS: 250" + message1 + quit)
	body := s.hop.got()[0].body
	h, err := message.ParseHeader(body[:strings.Index(string(body), "\r\n\r\n")+4], message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if n := h.Len(); n != 2 {
		t.Errorf("%d fields: %s", n, body)
	}
	for line := range strings.Lines(string(body)) {
		if len(line) > 998 { // RFC 5322 §2.1.1
			t.Errorf("a line of %d octets", len(line))
		}
	}
}

// TestCheckReceived: a template that makes no Received field is an error at the start of the server.
func TestCheckReceived(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "full", "private", "by {hostname}; {date}"} {
		if err := CheckReceived(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"by {hostname}", "by {host}; {date}", "by {hostname; {date}", "by {}; {date}", "by x\r\nBcc: y; {date}", "by ü; {date}", "{date}", strings.Repeat("x", 600) + "; {date}", "by { hostname }; {date}", "{ehlo client}; {date}"} {
		if CheckReceived(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
		s := &Server{Hostname: "x", Engine: nil, Received: bad}
		if err := s.setup(); err == nil {
			t.Errorf("a server with %q starts", bad)
		}
	}
}
