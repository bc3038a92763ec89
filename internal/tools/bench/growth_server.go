package main

import (
	"crypto/tls"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testload"
)

// server is Postern with the default bundle, which relays to an smtp-sink.
type server struct {
	sink, postern *testload.Process
	load          load // one connection that is kept
}

func startServer(o options, dir string) (*server, error) {
	s := &server{}
	sinkAddr, addr := testload.FreeAddr(), testload.FreeAddr()
	var err error
	if s.sink, err = testload.Start("smtp-sink", sinkAddr, dir, sinkCommand(sinkAddr)...); err != nil {
		return nil, err
	}
	// A SCRAM verifier needs no memory to check. The 64 MiB of an argon2id hash would hide what is measured here.
	if err = configure(o.postern, dir, submissionAt(addr, "smtp://"+sinkAddr), users, "--scram"); err != nil {
		s.stop()
		return nil, err
	}
	if s.postern, err = testload.Start("postern", addr, dir, o.postern, "serve", "--config", filepath.Join(dir, "postern.yaml")); err != nil {
		s.stop()
		return nil, err
	}
	s.load = load{addr: addr, tls: &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}, login: login, pass: password,
		from: login + "@example.com", recipients: 1, count: 20, keep: 1000, workers: 1, message: sample(login+"@example.com", 4096)}
	_, _, err = s.measure(s.load)
	if err != nil {
		s.stop()
	}
	return s, err
}

func (s *server) stop() {
	_ = s.postern.Stop()
	_ = s.sink.Stop()
}

// measure submits messages and returns the CPU time of the server for each in ms.
func (s *server) measure(l load) (cpu float64, got measured, err error) {
	before := s.postern.CPU()
	got = l.run()
	if got.Errors > 0 || got.Messages != l.count {
		return 0, got, fmt.Errorf("%d of %d messages went through, first error: %s\n%s", got.Messages, l.count, got.First, &s.postern.Log)
	}
	return (s.postern.CPU() - before).Seconds() * 1000 / float64(got.Messages), got, nil
}

// least measures three times and returns the lowest of each value.
func (s *server) least(l load) (cpu, p50 float64, err error) {
	cpu, p50 = math.Inf(1), math.Inf(1)
	for range 3 {
		used, got, err := s.measure(l)
		if err != nil {
			return 0, 0, err
		}
		cpu, p50 = min(cpu, used), min(p50, float64(got.P50.Nanoseconds())/1e6)
	}
	return cpu, p50, nil
}

// growRecipients measures messages to more and more recipients. Policy decides about each of them, and then about the message.
func growRecipients(o options, dir string) (*figure, error) {
	f := &figure{Title: "Recipients of a message", X: "recipients"}
	decision, whole := &curve{Name: "message stage"}, &curve{Name: "submission server, RCPT decisions and relay included"}
	b, err := withSenders(dir, users)
	if err != nil {
		return nil, err
	}
	s, err := startServer(o, dir)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	for _, n := range []int{1, 3, 10, 30, 100, 300, 1000} {
		progress("%d recipients", n)
		tr, err := transaction(25, n)
		if err != nil {
			return nil, err
		}
		decide, err := decider(b, tr, engine.Accept)
		if err != nil {
			return nil, err
		}
		decision.add(float64(n), cost(decide)/1000)
		l := s.load
		l.recipients, l.count = n, max(10, 300/n)
		cpu, _, err := s.least(l)
		if err != nil {
			return nil, err
		}
		whole.add(float64(n), cpu)
	}
	f.add("ms CPU a message", decision, whole)
	return f, nil
}

// growSize measures larger and larger messages over one TLS connection, relayed to the sink.
func growSize(o options, dir string) (*figure, error) {
	f := &figure{Title: "Size of a message", X: "octets"}
	cpu, held := &curve{Name: "submission server"}, &curve{Name: "submission server"}
	s, err := startServer(o, dir)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	for _, n := range []int{1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20, 100 << 20} {
		progress("%d octets", n)
		l := s.load
		l.message, l.count = sample(l.from, n), min(200, max(2, 20<<20/n))
		peak := s.postern.Peak()
		used, _, err := s.least(l)
		most := peak()
		if err != nil {
			return nil, err
		}
		cpu.add(float64(n), used)
		held.add(float64(n), most)
	}
	f.add("ms CPU a message", cpu)
	f.add("MiB, peak of the process", held)
	return f, nil
}

// growConnections measures one client that submits while more and more others are logged in under TLS and idle.
func growConnections(o options, dir string) (*figure, error) {
	f := &figure{Title: "Connections, logged in and idle", X: "connections"}
	held, latency, cpu := &curve{Name: "whole process"}, &curve{Name: "p50, ms"}, &curve{Name: "CPU of the server, ms"}
	s, err := startServer(o, dir)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	var open []*testload.Client
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		if uint64(n)+500 > limit.Max {
			f.Notes = append(f.Notes, fmt.Sprintf("%d connections were not measured, because the limit of open files is %d (ulimit -Hn).", n, limit.Max))
			break
		}
		progress("%d connections", n)
		more, err := s.load.openMany(n - len(open))
		if open = append(open, more...); err != nil {
			return nil, fmt.Errorf("%d connections: %w\n%s", len(open), err, &s.postern.Log)
		}
		l := s.load
		l.count = 200
		used, p50, err := s.least(l)
		if err != nil {
			return nil, err
		}
		held.add(float64(n), s.postern.Resident())
		latency.add(float64(n), p50)
		cpu.add(float64(n), used)
	}
	f.add("MiB resident", held)
	f.add("a message of another client", latency, cpu)
	return f, nil
}

// openMany opens n connections and logs in on each, eight at a time.
func (l load) openMany(n int) (open []*testload.Client, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	close(left)
	for range 8 {
		wg.Go(func() {
			for range left {
				c, failed := l.open()
				mu.Lock()
				if failed != nil {
					err = failed
				} else {
					c.Conn.SetDeadline(time.Time{})
					open = append(open, c)
				}
				stop := err != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	return open, err
}
