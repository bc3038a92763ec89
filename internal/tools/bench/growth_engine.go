package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/policies"
)

// growRules measures rules that compare a fact with a constant, which OPA indexes, and rules that OPA has to try one by one.
func growRules(options, string) (*figure, error) {
	f := &figure{Title: "Rules in one package", X: "rules", Notes: []string{
		"For every file of a package, OPA's compiler looks at every rule of the package, so the time to compile grows faster than the number of files."}}
	indexed, tried := &curve{Name: "indexed"}, &curve{Name: "every rule is tried"}
	built, scattered := &curve{Name: "in one file"}, &curve{Name: "ten rules a file"}
	tr, err := transaction(25, 10)
	if err != nil {
		return nil, err
	}
	const compared, searched = "reject contains \"r%[1]d\" if input.auth.login == \"nobody%[1]d\"\n",
		"reject contains \"r%[1]d\" if contains(input.envelope.from.address, \"nobody%[1]d\")\n"
	for _, n := range []int{10, 30, 100, 300, 1000, 3000, 10_000} {
		for _, c := range []struct {
			rule           string
			perFile        int
			decides, loads *curve
		}{{compared, n, indexed, built}, {searched, n, tried, nil}, {compared, 10, nil, scattered}} {
			progress("%d rules, %d a file", n, c.perFile)
			b := ruleBundle(c.rule, n, c.perFile)
			var decide func()
			took := math.Inf(1)
			for range 2 {
				begin := ownCPU()
				if decide, err = decider(b, tr, engine.Accept); err != nil {
					return nil, err
				}
				took = min(took, float64((ownCPU()-begin).Microseconds())/1e3)
			}
			if c.loads != nil {
				c.loads.add(float64(n), took)
			}
			if c.decides != nil {
				c.decides.add(float64(n), cost(decide))
			}
		}
	}
	f.add("µs CPU a decision", indexed, tried)
	f.add("ms CPU to compile and lint", built, scattered)
	return f, nil
}

func ruleBundle(rule string, n, perFile int) *bundle.Bundle {
	b := &bundle.Bundle{Manifest: bundle.Manifest{Revision: "r"}, Data: map[string]any{}}
	for first := 0; first < n; first += perFile {
		var rego strings.Builder
		rego.WriteString("package postern.message\n")
		for i := first; i < min(first+perFile, n); i++ {
			fmt.Fprintf(&rego, rule, i)
		}
		name := fmt.Sprintf("r%d.rego", first)
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Raw: []byte(rego.String())})
	}
	return b
}

// decider compiles a policy and returns a function that decides about tr. It checks that the verdict is the wanted one.
func decider(b *bundle.Bundle, tr *engine.Transaction, want engine.Verdict) (func(), error) {
	p, err := engine.Compile(context.Background(), b, engine.Options{Timeout: time.Minute})
	if err != nil {
		return nil, err
	}
	e := &engine.Engine{}
	e.Swap(p)
	if d := e.Decide(context.Background(), tr); d.Verdict != want || d.Err != nil {
		return nil, fmt.Errorf("decided %v %v, %v: wanted %v", d.Verdict, d.Reasons, d.Err, want)
	}
	return func() { e.Decide(context.Background(), tr) }, nil
}

// growSenders measures the default bundle with the addresses of more and more users, loaded as serve loads them.
func growSenders(_ options, dir string) (*figure, error) {
	f := &figure{Title: "Users in data.senders", X: "users"}
	decision, held, load := &curve{Name: "message stage"}, &curve{Name: "data and policy"}, &curve{Name: "read and compile"}
	tr, err := transaction(25, 10)
	if err != nil {
		return nil, err
	}
	for _, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		progress("%d users", n)
		before := heap()
		begin := ownCPU()
		b, err := withSenders(dir, n)
		if err != nil {
			return nil, err
		}
		decide, err := decider(b, tr, engine.Accept)
		b = nil
		if err != nil {
			return nil, err
		}
		load.add(float64(n), (ownCPU() - begin).Seconds())
		held.add(float64(n), heap()-before)
		decision.add(float64(n), cost(decide))
		runtime.KeepAlive(decide)
		decide = nil
		debug.FreeOSMemory()
	}
	f.add("µs CPU a decision", decision)
	f.add("MiB on the heap", held)
	f.add("s CPU to load", load)
	return f, nil
}

// withSenders returns the default bundle with the senders of n users, read from a file as serve reads it.
func withSenders(dir string, n int) (*bundle.Bundle, error) {
	name := filepath.Join(dir, "senders.json")
	if err := writeSenders(name, n); err != nil {
		return nil, err
	}
	c, err := bundles.Load(context.Background(), bundles.FS(policies.FS, "default"), name)
	if err != nil {
		return nil, err
	}
	return c.Bundle, nil
}

func writeSenders(name string, n int) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	fmt.Fprint(w, `{"settings": {"domain": "example.com", "max_recipients": 1000}, "senders": {`)
	for i := range n {
		sep := ","
		if i == 0 {
			sep = ""
		}
		fmt.Fprintf(w, "%s\n\"user%d\": [\"user%d@example.com\", \"alias%d@example.org\"]", sep, i, i, i)
	}
	fmt.Fprint(w, "}}\n")
	if err := w.Flush(); err != nil {
		return err
	}
	return file.Close()
}

// heap returns the live heap in MiB.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// growFields measures messages with more and more header fields.
func growFields(_ options, dir string) (*figure, error) {
	f := &figure{Title: "Header fields in a message", X: "header fields"}
	parse, decision, edit := &curve{Name: "parse"}, &curve{Name: "decision of the default bundle"}, &curve{Name: "four edits"}
	b, err := withSenders(dir, users)
	if err != nil {
		return nil, err
	}
	edits, err := someEdits()
	if err != nil {
		return nil, err
	}
	for _, n := range []int{5, 10, 30, 100, 300, 1000} {
		progress("%d header fields", n)
		block := header(n)
		h, err := message.ParseHeader(block, message.Limits{})
		if err != nil {
			return nil, err
		}
		tr, err := transaction(n, 10)
		if err != nil {
			return nil, err
		}
		decide, err := decider(b, tr, engine.Accept)
		if err != nil {
			return nil, err
		}
		decision.add(float64(n), cost(decide))
		parse.add(float64(n), cost(func() { _, _ = message.ParseHeader(block, message.Limits{}) }))
		edit.add(float64(n), cost(func() { _, _ = h.Apply(edits) }))
	}
	f.add("µs CPU a message", parse, decision, edit)
	return f, nil
}

func someEdits() (message.Edits, error) {
	var list []message.Edit
	for _, e := range []struct {
		op          message.Op
		name, value string
		index       int
	}{
		{message.OpAddHeader, "X-Added", "value", 0}, {message.OpInsertHeader, "X-Inserted", "value", 0},
		{message.OpReplaceHeader, "Subject", "replaced", 1}, {message.OpRemoveHeader, "X-Bench-0", "", 1},
	} {
		edit, err := message.NewEdit(e.op, e.name, e.index, e.value, false)
		if err != nil {
			return message.Edits{}, err
		}
		list = append(list, edit)
	}
	return message.Plan(list)
}

// header returns a header block of n fields.
func header(n int) []byte {
	var h strings.Builder
	h.WriteString("From: User <user1@example.com>\r\nTo: r0@example.net\r\nSubject: growth\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n")
	for i := range n - 5 {
		fmt.Fprintf(&h, "X-Bench-%d: value of the field with the number %d\r\n", i, i)
	}
	h.WriteString("\r\n")
	return []byte(h.String())
}

// transaction returns a message of user1 with that many header fields and recipients, at the message stage.
func transaction(fields, recipients int) (*engine.Transaction, error) {
	h, err := message.ParseHeader(header(fields), message.Limits{})
	if err != nil {
		return nil, err
	}
	var to []engine.Recipient
	for i := range recipients {
		to = append(to, engine.Recipient{Path: message.Path{Mailbox: message.Mailbox{Local: fmt.Sprintf("r%d", i), Domain: "example.net"}}})
	}
	return &engine.Transaction{
		ID: "transaction-1", Stage: engine.StageMessage, Now: time.Unix(1767225600, 0),
		Server:   engine.Server{Hostname: "mail.example.com", Listener: ":587", Door: "submission"},
		Client:   engine.Client{IP: netip.MustParseAddr("192.0.2.7"), Port: 4711, EHLO: "laptop"},
		TLS:      &engine.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"},
		Auth:     &engine.Auth{Login: login, Mechanism: "PLAIN", Backend: "file"},
		Envelope: &engine.Envelope{From: message.Path{Mailbox: message.Mailbox{Local: login, Domain: "example.com"}}, To: to},
		Message: &engine.Message{Header: h, Size: 4096,
			Generated: engine.Generated{MessageID: "<1@mail.example.com>", Date: "Thu, 01 Jan 2026 00:00:00 +0000"}},
	}, nil
}
