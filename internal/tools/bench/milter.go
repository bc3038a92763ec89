package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/postern-mail/postern/internal/testload"
)

// milters is the milter part: one Postfix with a port for each variant, which share its queue and daemons.
type milters struct {
	sink   *testload.Process
	ours   []*testload.Process // builds of Postern
	others []*testload.Process
	mta    *mta
	auth   *authServer
}

// variant is one port of the Postfix, with its milter.
type variant struct {
	what   string
	does   string
	milter string // in the syntax of Postfix; "": none
	server *testload.Process
	judges bool // it refuses a sender that does not belong to the login
}

func (m *milters) start(o options, dir string) ([]*row, error) {
	if why := postfixMissing(o); why != "" {
		o.skip("the milter part", why)
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
	variants := []variant{{"postfix alone", "no milter", "", nil, false}}
	for _, begin := range []func(o options, dir string) ([]variant, error){m.startNull, m.startPostern, m.startRspamd, m.startMIMEDefang} {
		more, err := begin(o, dir)
		if err != nil {
			return nil, err
		}
		variants = append(variants, more...)
	}
	var smtpds []string
	for _, v := range variants {
		smtpds = append(smtpds, fmt.Sprintf("-o { smtpd_milters = %s }", v.milter))
	}
	if m.mta, err = startMTA(dir, sinkAddr, m.auth.addr, "", smtpds); err != nil {
		return nil, err
	}
	rows := m.rows(o, variants)
	return rows, warm(rows)
}

// startNull starts the null milter twice, on a unix and on a TCP socket.
func (m *milters) startNull(_ options, dir string) ([]variant, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	socket, addr := filepath.Join(dir, "null.sock"), testload.FreeAddr()
	unix, err := testload.Start("null milter", "unix:"+socket, dir, self, "-null", "unix:"+socket)
	if err != nil {
		return nil, err
	}
	m.others = append(m.others, unix)
	tcp, err := testload.Start("null milter", addr, dir, self, "-null", "tcp:"+addr)
	if err != nil {
		return nil, err
	}
	m.others = append(m.others, tcp)
	const does = "negotiates the same steps as Postern and answers as often, always to accept"
	return []variant{{"null milter, unix", does, "unix:" + socket, unix, false}, {"null milter, tcp", does, "inet:" + addr, tcp, false}}, nil
}

func (m *milters) startPostern(o options, dir string) (list []variant, err error) {
	names, programs, err := o.builds()
	if err != nil {
		return nil, err
	}
	for i, build := range programs {
		own, addr := filepath.Join(dir, fmt.Sprintf("postern%d", i)), testload.FreeAddr()
		socket := filepath.Join(own, "postern.sock")
		p, err := startPostern(build, own, addr, fmt.Sprintf("milter:\n  listen:\n    - {address: \"unix:%s\", mode: \"0666\"}\n    - tcp:%s\n", socket, addr))
		if err != nil {
			return nil, err
		}
		m.ours = append(m.ours, p)
		const does = "default bundle, decision log"
		list = append(list, variant{names[i] + ", unix", does, "unix:" + socket, p, true}, variant{names[i] + ", tcp", does, "inet:" + addr, p, true})
	}
	return list, nil
}

func (m *milters) rows(o options, variants []variant) []*row {
	var rows []*row
	n := o.count / 4
	for _, u := range []use{{4096, 1, 20}, {4096, n, 20}, {4096, n, 1}} {
		for i, v := range variants {
			rows = append(rows, &row{Part: "milter", What: v.what, Does: v.does, Size: u.size, Keep: u.keep, Workers: u.workers, Count: n,
				load: load{addr: m.mta.addr[i], login: login, pass: password, from: login + "@example.com", recipients: 1, count: n, keep: u.keep,
					workers: u.workers, message: sample(login+"@example.com", u.size)},
				judges: v.judges, server: m.mta.Process, milter: v.server, idle: m.mta.idle, output: func() string {
					if v.server != nil {
						return m.mta.output() + "\n" + v.server.Log.String()
					}
					return m.mta.output()
				}})
		}
	}
	return rows
}

func (m *milters) name() string               { return "milter" }
func (m *milters) postern() *testload.Process { return first(m.ours) }

func (m *milters) stop() {
	if m.mta != nil {
		_ = m.mta.Process.Stop()
	}
	for _, p := range slices.Concat(m.others, m.ours, []*testload.Process{m.sink}) {
		_ = p.Stop()
	}
	if m.auth != nil {
		m.auth.close()
	}
}
