package faults

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// bodyRules search the body, which takes long for a large one.
const bodyRules = `package postern.message

reject contains "card" if {
	count(regex.find_n("[0-9]{4}-?[0-9]{4}-?[0-9]{4}-?[0-9]{4}", input.message.body.text, 10)) > 3
}

reject contains "words" if {
	some word in ["secret", "internal", "confidential"]
	count(indexof_n(lower(input.message.body.text), word)) > 3
}
`

// TestBusyMachine: with other work on the machine and the time-out by default, 200 submission sessions and 100 milter connections of one
// client network bring their messages at once, some of 800 KB for a policy that reads the body. None is deferred by policy.
func TestBusyMachine(t *testing.T) {
	testenv.NotShort(t, "the built program and 300 connections")
	dir := testenv.ShortDir(t)
	testenv.Write(t, filepath.Join(dir, "postern/message/p.rego"), bodyRules)
	s := e2e.StartSite(t, "maildir:outbox", "policy: {bundle: '"+dir+"'}\nmilter: {listen: ['tcp:127.0.0.1:0']}\n"+
		"submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', require_auth: false, limits: {connections_per_ip: 400}}\n",
		func(cmd *exec.Cmd) { cmd.Path = e2e.PlainBinary(t) }) // the race detector would make the rules ten times slower, and so a time-out true
	const sessions, milters, size = 200, 100, 800 << 10
	var clients []*e2e.Client
	for range sessions {
		clients = append(clients, s.Anonymous(t))
	}
	var servers []milterClient
	for range milters {
		servers = append(servers, dialMilter(t, s))
	}
	var stop atomic.Bool
	defer stop.Store(true)
	for range runtime.GOMAXPROCS(0) { // other work
		go func() {
			for n := 0; !stop.Load(); n++ {
				_ = n
			}
		}()
	}
	began := time.Now()
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() {
			subject, octets := fmt.Sprint("good ", i), 500
			if i%20 == 0 {
				octets = size
			}
			if r := c.Send(subject, octets); !strings.HasPrefix(r, "250 ") {
				t.Errorf("session %d, %d octets: %q", i, octets, r)
			}
		})
	}
	for i, m := range servers {
		all.Go(func() {
			body := "Hello.\r\n"
			if i%20 == 0 {
				body = strings.Repeat("The minutes of the meeting on Thursday are attached, 12 pages.\r\n", size/64)
			}
			if res, err := m.bring("good", body); err != nil || res.Answer.Refused() {
				t.Errorf("milter connection %d, %d octets: %+v, %v", i, len(body), res, err)
			}
		})
	}
	all.Wait()
	t.Logf("took %v", time.Since(began))
}
