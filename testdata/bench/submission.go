package main

import (
	"crypto/tls"
	"path/filepath"

	"github.com/postern-mail/postern/internal/testload"
)

// submission is Postern's submission server beside the smtp-sink that it relays to.
type submission struct {
	sink, postern *testload.Process
}

func (s *submission) start(o options, dir string) ([]*row, error) {
	sinkAddr, addr := testload.FreeAddr(), testload.FreeAddr()
	var err error
	if s.sink, err = testload.Start("smtp-sink", sinkAddr, dir, sinkCommand(sinkAddr)...); err != nil {
		return nil, err
	}
	if err := configure(o.postern, dir, door(addr, "smtp://"+sinkAddr)); err != nil {
		return nil, err
	}
	if s.postern, err = testload.Start("postern", addr, dir, o.postern, "serve", "--config", filepath.Join(dir, "postern.yaml")); err != nil {
		return nil, err
	}
	var rows []*row
	for _, size := range []int{4096, 102400} {
		n := o.count
		if size > 50000 {
			n /= 4
		}
		for _, use := range []struct{ keep, workers int }{{1, 20}, {n, 1}, {n, 20}} {
			l := load{addr: addr, tls: &tls.Config{InsecureSkipVerify: true, ServerName: "bench.example.com"}, login: "user1", pass: "bench password",
				from: "user1@example.com", recipients: 1, count: n, keep: use.keep, workers: use.workers, message: sample("user1@example.com", size)}
			direct := l
			direct.addr, direct.tls, direct.login = sinkAddr, nil, ""
			common := row{Part: "submission", Size: size, Keep: use.keep, Workers: use.workers, Count: n}
			ours, theirs := common, common
			ours.What, ours.load, ours.server, ours.explain = "postern", l, s.postern, func() string { return tail(s.postern.Log.String()) }
			theirs.What, theirs.load, theirs.server = "smtp-sink alone", direct, s.sink
			rows = append(rows, &theirs, &ours)
		}
	}
	// The first login of a user costs an argon2id hash, which is remembered then: that is measured elsewhere.
	first := *rows[1]
	first.load.count = 100
	return rows, first.measure()
}

func (s *submission) name() string               { return "submission" }
func (s *submission) started() *testload.Process { return s.postern }

func (s *submission) stop() {
	s.postern.Stop()
	s.sink.Stop()
}
