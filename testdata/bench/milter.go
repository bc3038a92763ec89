package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/internal/testload"
)

// milters is one Postfix with a port for each variant, so that all share its queue and its daemons.
type milters struct {
	sink, null, nullTCP, postern *testload.Process
	mta                          *mta
	auth                         *authServer
}

func (m *milters) start(o options, dir string) ([]*row, error) {
	if why := mtaMissing(); why != "" {
		fmt.Fprintf(os.Stderr, "bench: the milter is not measured: %s\n", why)
		return nil, nil
	}
	sinkAddr := testload.FreeAddr()
	var err error
	if m.sink, err = testload.Start("smtp-sink", sinkAddr, dir, sinkCommand(sinkAddr)...); err != nil {
		return nil, err
	}
	if m.auth, err = newAuthServer(); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	unixNull, unixPostern := filepath.Join(dir, "null.sock"), filepath.Join(dir, "postern.sock")
	tcpNull, tcpPostern := testload.FreeAddr(), testload.FreeAddr()
	if m.null, err = testload.Start("null milter", "unix:"+unixNull, dir, self, "-null", "unix:"+unixNull); err != nil {
		return nil, err
	}
	if m.nullTCP, err = testload.Start("null milter", tcpNull, dir, self, "-null", "tcp:"+tcpNull); err != nil {
		return nil, err
	}
	listen := fmt.Sprintf("milter:\n  listen:\n    - {address: \"unix:%s\", mode: \"0666\"}\n    - tcp:%s\n", unixPostern, tcpPostern)
	if err := configure(o.postern, dir, listen); err != nil {
		return nil, err
	}
	if m.postern, err = testload.Start("postern", tcpPostern, dir, o.postern, "serve", "--config", filepath.Join(dir, "postern.yaml")); err != nil {
		return nil, err
	}
	variants := []variant{
		{"postfix alone", "", nil},
		{"null milter, unix", "unix:" + unixNull, m.null},
		{"null milter, tcp", "inet:" + tcpNull, m.nullTCP},
		{"postern, unix", "unix:" + unixPostern, m.postern},
		{"postern, tcp", "inet:" + tcpPostern, m.postern},
	}
	if m.mta, err = startMTA(dir, sinkAddr, m.auth.addr, variants); err != nil {
		return nil, err
	}
	return m.rows(o, variants), nil
}

// variant is a port of the Postfix.
type variant struct {
	what   string
	milter string // as Postfix writes it
	server *testload.Process
}

func (m *milters) rows(o options, variants []variant) []*row {
	var rows []*row
	n := o.count / 4
	for _, use := range []struct{ keep, workers int }{{1, 20}, {n, 20}, {n, 1}} {
		for i, v := range variants {
			rows = append(rows, &row{Part: "milter", What: v.what, Size: 4096, Keep: use.keep, Workers: use.workers, Count: n,
				load: load{addr: m.mta.addr[i], login: "user1", pass: "bench password", from: "user1@example.com", recipients: 1, count: n, keep: use.keep,
					workers: use.workers, message: sample("user1@example.com", 4096)},
				server: m.mta.Process, milter: v.server, settled: m.mta.idle, explain: m.mta.said})
		}
	}
	return rows
}

func (m *milters) name() string               { return "milter" }
func (m *milters) started() *testload.Process { return m.postern }

func (m *milters) stop() {
	if m.mta != nil {
		m.mta.Process.Stop()
	}
	for _, p := range []*testload.Process{m.postern, m.null, m.nullTCP, m.sink} {
		p.Stop()
	}
	if m.auth != nil {
		m.auth.close()
	}
}
