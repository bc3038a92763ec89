package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/internal/testload"
)

// submission is Postern's submission server and its peers, beside the smtp-sink that they all relay to.
type submission struct {
	sink  *testload.Process
	ours  []*testload.Process // Postern, and the builds beside it
	peers []*running
}

// use is how a client uses connections.
type use struct{ size, keep, workers int } // keep 0: one connection for all of a worker's messages

func (s *submission) start(o options, dir string) ([]*row, error) {
	sinkAddr := testload.FreeAddr()
	var err error
	if s.sink, err = testload.Start("smtp-sink", sinkAddr, dir, sinkCommand(sinkAddr)...); err != nil {
		return nil, err
	}
	// Nobody's key exchange is dearer than another's: X25519 is what all of them speak. A row of its own says what the
	// hybrid that Go's clients offer first costs.
	plain, hybrid := &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}, &tls.Config{InsecureSkipVerify: true}
	uses := []use{{4096, 1, 20}, {4096, 0, 1}, {4096, 0, 20}, {102400, 0, 20}}
	var rows []*row
	add := func(what, does string, count int, l load, r running, uses ...use) {
		for _, u := range uses {
			n := count
			if u.size > 50000 {
				n = count / 4
			}
			l := l
			l.addr, l.from, l.recipients, l.count, l.workers = r.addr, login+"@example.com", 1, n, u.workers
			if l.keep = u.keep; u.keep == 0 {
				l.keep = n
			}
			l.message = sample(l.from, u.size)
			rows = append(rows, &row{Part: "submission", What: what, Does: does, Size: u.size, Keep: l.keep, Workers: u.workers, Count: n,
				load: l, judges: l.login != "", server: r.process, settled: r.settled, explain: r.explain})
		}
	}
	secure := load{tls: plain, login: login, pass: password}
	add("smtp-sink alone", "no TLS, no AUTH, no policy: the floor that the client and the sink set", o.count, load{}, running{addr: sinkAddr, process: s.sink}, uses...)
	names, programs, err := o.builds()
	if err != nil {
		return nil, err
	}
	for i, build := range programs {
		own, addr := filepath.Join(dir, fmt.Sprintf("postern%d", i)), testload.FreeAddr()
		p, err := startPostern(build, own, addr, door(addr, "smtp://"+sinkAddr))
		if err != nil {
			return nil, err
		}
		s.ours = append(s.ours, p)
		ours := running{addr: addr, process: p, explain: p.Log.String}
		add(names[i], "250 after the sink's; default bundle, decision log; a login that was checked once (argon2id) is remembered", o.count, secure, ours, uses...)
		hybridly := secure
		hybridly.tls = hybrid
		add(names[i]+", X25519MLKEM768", "the same with the key exchange that withstands quantum computers, which the others do not speak", o.count, hybridly, ours, uses[0])
	}
	for i, p := range submissionPeers() {
		if why := p.missing(o); why != "" {
			o.lacks(p.what, why)
			continue
		}
		own := filepath.Join(dir, fmt.Sprintf("peer%d", i))
		if err := os.Mkdir(own, 0o755); err != nil {
			return nil, err
		}
		r, err := p.start(o, site{own, sinkAddr, filepath.Join(dir, "postern0", "cert.pem"), filepath.Join(dir, "postern0", "key.pem")})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.what, err)
		}
		s.peers = append(s.peers, r)
		add(p.what, p.does, o.count/4, secure, *r, uses...)
	}
	return byUse(rows), warm(rows)
}

// byUse puts the rows of one use together.
func byUse(rows []*row) (sorted []*row) {
	var seen []use
	for _, r := range rows {
		seen = append(seen, r.use())
	}
	for i, u := range seen {
		first := true
		for _, earlier := range seen[:i] {
			first = first && earlier != u
		}
		for _, r := range rows {
			if first && r.use() == u {
				sorted = append(sorted, r)
			}
		}
	}
	return sorted
}

// warm prepares each server once.
func warm(rows []*row) error {
	seen := map[string]bool{}
	for _, r := range rows {
		if !seen[r.What] {
			seen[r.What] = true
			if err := r.prepare(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *submission) name() string               { return "submission" }
func (s *submission) started() *testload.Process { return first(s.ours) }

func (s *submission) stop() {
	for _, p := range s.peers {
		_ = p.process.Stop()
	}
	for _, p := range s.ours {
		_ = p.Stop()
	}
	_ = s.sink.Stop()
}
