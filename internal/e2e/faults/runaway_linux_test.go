package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// runawayRules misbehave for the messages that ask for it by their subject, each in its own way.
const runawayRules = `package postern.message

_subject := input.message.header.subject[0]

# It loops: ten thousand million products.
reject contains "loops" if {
	_subject == "loops"
	some i in numbers.range(1, 100000)
	some j in numbers.range(1, 100000)
	i * j == -1
}

# It allocates: a string of 32 MiB for each of a million numbers.
reject contains "allocates" if {
	_subject == "allocates"
	some i in numbers.range(1, 1000000)
	contains(_eightfold(_eightfold(_eightfold(_eightfold(_eightfold(_eightfold(_eightfold(sprintf("%16d", [i])))))))), "y")
}

_eightfold(s) := concat("", [s, s, s, s, s, s, s, s])

# It contradicts itself: a rule with two values, and two edits that cannot both be.
reject contains "conflict" if {
	_subject == "conflict"
	_two == 3
}

_two := 1 if _subject
_two := 2 if _subject == "conflict"

edit contains {"op": "replace_header", "name": "Subject", "value": "a"} if _subject == "contradicts"
edit contains {"op": "replace_header", "name": "Subject", "value": "b"} if _subject == "contradicts"

# A builtin fails.
reject contains "fails" if {
	_subject == "fails"
	to_number(_subject) > 0
}
`

// TestRunaways sends messages at both doors which make the policy loop, build huge strings, contradict itself, or call a builtin
// that fails. They are deferred, the messages of other clients are accepted meanwhile without exception, and the process stays within its
// memory.
func TestRunaways(t *testing.T) {
	t.Parallel()
	dir := testenv.ShortDir(t)
	testenv.Write(t, filepath.Join(dir, "postern/message/p.rego"), runawayRules)
	s := e2e.StartSite(t, "maildir:outbox", "policy: {bundle: '"+dir+"', timeout: 2s}\nmilter: {listen: ['tcp:127.0.0.1:0']}\nlog: {format: json}\n"+
		"decision_log: {file: decisions.jsonl}\nsubmission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', require_auth: false}\n")
	stop := make(chan struct{})
	var good, late atomic.Int64
	var others sync.WaitGroup
	for range 2 {
		x := s.Anonymous(t) // not the login that has the runaways
		others.Go(func() { sendUntil(x, stop, &good, &late) })
	}
	const rounds = 3
	x, m := s.Client(t), dialMilter(t, s)
	for range rounds {
		for _, subject := range []string{"loops", "allocates", "conflict", "contradicts", "fails"} {
			began := time.Now()
			x.Want("submission", subject, 500, "451 4.3.0 Temporary failure")
			m.wantFailure(t, subject)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("%s: both doors took %v", subject, took)
			}
		}
	}
	close(stop)
	others.Wait()
	x.Want("afterwards", "good", 500, "250 ")
	peak := s.Process.PeakResident(t)
	t.Logf("meanwhile %d good messages were taken and %d deferred; %d MiB of memory at most", good.Load(), late.Load(), peak>>20)
	if good.Load() < 10 || late.Load() > 0 || peak > 4<<30 {
		t.Errorf("%d good messages of others were taken, %d deferred; %d octets of memory", good.Load(), late.Load(), peak)
	}
	log, err := os.ReadFile(filepath.Join(s.Dir, "decisions.jsonl"))
	for code, n := range map[string]int{"timeout": 4 * rounds, "conflict": 2 * rounds, "builtin": 2 * rounds} {
		if got := bytes.Count(log, []byte(`"code":"`+code)); err != nil || got < n/2 {
			t.Errorf("%d decisions with the error %s are in the log; %v", got, code, err)
		}
	}
}

// sendUntil submits good messages until stop, and counts those that are deferred.
func sendUntil(x *e2e.Client, stop <-chan struct{}, good, late *atomic.Int64) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		switch r := x.Send("good", 2000); {
		case strings.HasPrefix(r, "250 "):
			good.Add(1)
		case strings.HasPrefix(r, "451 4.3.0 "):
			late.Add(1)
		default:
			x.T.Errorf("a good message: %q", r)
		}
	}
}

// wantFailure brings a message that policy fails at, and then a good one over the same connection.
func (m milterClient) wantFailure(t *testing.T, subject string) {
	t.Helper()
	res, err := m.tell(subject)
	if err != nil || !strings.HasPrefix(res.Answer.Text, "451 4.3.0 Temporary failure") || len(res.Operations) != 0 {
		t.Errorf("milter, %s: %+v, %v", subject, res, err)
	}
	if res, err := m.tell("good"); err != nil || res.Answer.Refused() && !strings.Contains(res.Answer.Text, "4.3.0") {
		t.Errorf("milter, after %s: %+v, %v", subject, res, err)
	}
}

// milterClient is a mail server that has sent the facts about its client.
type milterClient struct{ *testmilter.MTA }

func dialMilter(t *testing.T, s *e2e.Site) milterClient {
	t.Helper()
	m, err := testmilter.Dial("tcp", s.Milter, testmilter.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	m.Macros('C', "j", "mta.example.com", "{daemon_name}", "smtpd", "v", "Postfix 3.7.11")
	_, err = m.Connect("client.example.net", '4', 40000, "192.0.2.1")
	testenv.Must(t, err)
	_, err = m.Helo("client.example.net")
	testenv.Must(t, err)
	return milterClient{m}
}

// tell brings a short message with a subject.
func (m milterClient) tell(subject string) (*testmilter.Result, error) {
	return m.bring(subject, "Hello.\r\n")
}

// bring brings a message with a subject and a body.
func (m milterClient) bring(subject, body string) (*testmilter.Result, error) {
	if _, err := m.Mail("<alice@example.com>"); err != nil {
		return nil, err
	}
	if _, err := m.Rcpt("<bob@example.net>"); err != nil {
		return nil, err
	}
	return m.Message("", nil, []byte("From: alice@example.com\r\nSubject: "+subject+"\r\n\r\n"+body))
}
