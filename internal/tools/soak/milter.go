package main

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/testmilter"
)

// milters simulates mail servers that use Postern as a milter, over a unix and a TCP socket.
type milters struct {
	site      *site
	writer    *writer
	kept      kept[*server]
	asked     atomic.Int64
	latencies latencies
	wrong     counts // answers that are not planned, and lost connections
}

// server is one connection of a mail server.
type server struct {
	*testmilter.MTA
	left  int
	since time.Time
}

func (s *server) used() time.Time { return s.since }

func (s *server) quit() { _ = s.Quit() }

func newMilters(s *site, text []byte) *milters {
	m := &milters{site: s}
	var ids atomic.Int64
	m.writer = &writer{text: text, open: func(fate, sum) int { return int(ids.Add(1)) }}
	return m
}

// one sends a message through the milter and checks that the answer is the planned one.
func (m *milters) one(r *rand.Rand, due time.Time) {
	m.asked.Add(1)
	s, ok := m.kept.get()
	if !ok {
		var err error
		if s, err = m.open(r); err != nil {
			m.wrong.add("no connection: "+plain(err.Error()), 1)
			return
		}
	}
	l := m.writer.write(r, fmt.Sprintf("user%d", r.IntN(10_000)), 2<<20)
	got, err := s.ask(l)
	if err != nil {
		m.wrong.add("no answer: "+plain(err.Error()), 1)
		_ = s.Close()
		return
	}
	if got != l.plan.String() {
		m.wrong.add(fmt.Sprintf("%s: %s", l.plan, plain(got)), 1)
	} else if l.small {
		m.latencies.add(time.Since(due))
	}
	s.since = time.Now()
	if s.left--; s.left > 0 {
		m.kept.put(s)
		return
	}
	s.quit()
}

func (m *milters) open(r *rand.Rand) (*server, error) {
	network, address := "unix", m.site.unix
	if r.IntN(2) == 0 {
		network, address = "tcp", m.site.tcp
	}
	mta, err := testmilter.Dial(network, address, testmilter.Options{Timeout: timeout})
	if err != nil {
		return nil, err
	}
	mta.Macros('C', "j", "mta.example.com", "{daemon_name}", "smtpd", "v", "Postfix 3.7.11")
	mta.Macros('H', "{tls_version}", "TLSv1.3", "{cipher}", "TLS_AES_128_GCM_SHA256")
	if _, err = mta.Connect("client.example.net", '4', 40000, "192.0.2.1"); err == nil {
		_, err = mta.Helo("client.example.net")
	}
	if err != nil {
		_ = mta.Close()
		return nil, err
	}
	return &server{MTA: mta, left: 1 + r.IntN(50)}, nil
}

// ask runs one transaction and returns the answer, as the name of a fate if it is one.
func (s *server) ask(l *letter) (string, error) {
	login := l.sender
	if l.plan == refuse {
		login = "user0@example.com"
	}
	login = login[:len(login)-len("@example.com")]
	s.Macros('M', "i", fmt.Sprintf("Q%d", l.id), "{auth_authen}", login, "{auth_type}", "PLAIN")
	a, err := s.Mail("<" + l.sender + ">")
	if err != nil {
		return "", err
	}
	if a.Refused() {
		return fateOf(a), s.Abort()
	}
	for _, to := range l.to {
		if a, err = s.Rcpt("<" + to + ">"); err != nil {
			return "", err
		}
		if a.Refused() {
			return fateOf(a), s.Abort()
		}
	}
	r, err := s.Message(l.sender, l.to, append([]byte(l.head), l.body...))
	if err != nil {
		return "", err
	}
	if r.Quarantine != "" && !r.Answer.Refused() {
		return hold.String(), nil
	}
	return fateOf(r.Answer), nil
}

// fateOf returns the name of the fate that an answer means, or the answer itself.
func fateOf(a testmilter.Answer) string {
	switch {
	case a.Code == 'y' && len(a.Text) > 9 && a.Text[:9] == "550 5.7.1":
		return refuse.String()
	case a.Code == 'y' && len(a.Text) > 9 && a.Text[:9] == "451 4.7.1":
		return postpone.String()
	case a.Code == 'a' || a.Code == 'c' || a.Code == 0:
		return pass.String()
	}
	return fmt.Sprintf("%q %s", a.Code, a.Text)
}
