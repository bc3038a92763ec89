package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/internal/testload"
)

// submission is the submission part: Postern and its peers, which all relay to one smtp-sink.
type submission struct {
	sink  *testload.Process
	ours  []*testload.Process // builds of Postern
	peers []*running
	rows  []*row
}

// use is how clients use connections.
type use struct{ size, keep, workers int } // keep 0: each worker sends all of its messages over one connection

var submissionUses = []use{{4096, 1, 20}, {4096, 0, 1}, {4096, 0, 20}, {102400, 0, 20}}

func (s *submission) start(o options, dir string) ([]*row, error) {
	sinkAddr := testload.FreeAddr()
	var err error
	if s.sink, err = testload.Start("smtp-sink", sinkAddr, dir, sinkCommand(sinkAddr)...); err != nil {
		return nil, err
	}
	s.add("smtp-sink alone", "no TLS, no AUTH, no policy: the least that client and sink cost", o.count, load{}, running{addr: sinkAddr, process: s.sink}, submissionUses...)
	if err := s.startBuilds(o, dir, sinkAddr); err != nil {
		return nil, err
	}
	if err := s.startPeers(o, dir, sinkAddr); err != nil {
		return nil, err
	}
	return byUse(s.rows), warm(s.rows)
}

// add adds a row for each use of a server.
func (s *submission) add(what, does string, count int, l load, r running, uses ...use) {
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
		s.rows = append(s.rows, &row{Part: "submission", What: what, Does: does, Size: u.size, Keep: l.keep, Workers: u.workers, Count: n,
			load: l, judges: l.login != "", server: r.process, idle: r.idle, output: r.output})
	}
}

// secure is a load with login over TLS. All servers speak X25519, so that all key exchanges cost the same.
func secure() load {
	return load{tls: &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}, login: login, pass: password}
}

// startBuilds starts each build of Postern and adds its rows, one of them with the hybrid key exchange that Go's clients
// offer first.
func (s *submission) startBuilds(o options, dir, sinkAddr string) error {
	names, programs, err := o.builds()
	if err != nil {
		return err
	}
	hybrid := secure()
	hybrid.tls = &tls.Config{InsecureSkipVerify: true}
	for i, build := range programs {
		addr := testload.FreeAddr()
		p, err := startPostern(build, filepath.Join(dir, fmt.Sprintf("postern%d", i)), addr, submissionAt(addr, "smtp://"+sinkAddr))
		if err != nil {
			return err
		}
		s.ours = append(s.ours, p)
		ours := running{addr: addr, process: p, output: p.Log.String}
		s.add(names[i], "250 after that of the sink; default bundle, decision log; a password that was checked once (argon2id) is remembered", o.count, secure(), ours, submissionUses...)
		s.add(names[i]+", X25519MLKEM768", "the same with a key exchange that resists quantum computers, which the others do not offer", o.count, hybrid, ours, submissionUses[0])
	}
	return nil
}

// startPeers starts the peers that are installed and adds their rows. They share the certificate of the first Postern.
func (s *submission) startPeers(o options, dir, sinkAddr string) error {
	for i, p := range submissionPeers() {
		if why := p.missing(o); why != "" {
			o.skip(p.what, why)
			continue
		}
		own := filepath.Join(dir, fmt.Sprintf("peer%d", i))
		if err := os.Mkdir(own, 0o755); err != nil {
			return err
		}
		r, err := p.start(o, site{own, sinkAddr, filepath.Join(dir, "postern0", "cert.pem"), filepath.Join(dir, "postern0", "key.pem")})
		if err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
		s.peers = append(s.peers, r)
		s.add(p.what, p.does, o.count/4, secure(), *r, submissionUses...)
	}
	return nil
}

// byUse sorts rows so that those of one use stand together.
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

// warm prepares each server with the first of its rows.
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
func (s *submission) postern() *testload.Process { return first(s.ours) }

func (s *submission) stop() {
	for _, p := range s.peers {
		_ = p.process.Stop()
	}
	for _, p := range s.ours {
		_ = p.Stop()
	}
	_ = s.sink.Stop()
}
