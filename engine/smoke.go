package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// A smoke decision is measured by the processor time of its thread, so that a busy machine does not change the result.
const (
	// smokeTime bounds the time of a smoke decision on the clock. Only an evaluation that never ends takes so long.
	smokeTime = time.Minute
	// overTimeout is how many times the time-out a plain transaction may take of the processor before the policy is refused. A
	// busy machine can double the processor time, because two threads share a core's caches. So a policy that is refused would
	// run into its time-out on a quiet machine too.
	overTimeout = 2
	// nearTimeout is the share of the time-out from which a decision gets a warning. Beside other work, a decision takes several
	// times its processor time.
	nearTimeout = 4 // a quarter
)

// smoke decides a plain and a large transaction at every stage. It returns warnings about stages that come near their time-out. The
// error is a *contract.CompileError if a stage fails for the plain transaction, or would always run into its time-out.
func (p *Policy) smoke(ctx context.Context) ([]contract.Finding, error) {
	var found contract.CompileError
	var slow []contract.Finding
	for _, s := range contract.Stages() {
		if p.stages[s] == nil {
			continue
		}
		plain, err := plainTransaction(s)
		if err != nil {
			return nil, err
		}
		d, took := p.measure(ctx, plain)
		if d.Err != nil {
			why := strings.Join(strings.Fields(d.Err.Error()), " ")
			found.Findings = append(found.Findings, p.place(s, d.Err, contract.Finding{Severity: contract.Fault, Code: contract.CodeSmoke,
				Message: fmt.Sprintf("package postern.%s does not decide a plain transaction: %s", s, why),
				Hint:    "see what it does with the input of a plain message in `postern eval`"}))
			continue
		}
		what := "a plain transaction"
		if large := largeTransaction(plain); large != nil {
			if _, longer := p.measure(ctx, large); longer > took {
				took, what = longer, fmt.Sprintf("a message of 1 MiB to %d recipients", largeRecipients)
			}
		}
		if took > p.timeout/nearTimeout {
			slow = append(slow, p.place(s, nil, contract.Finding{Severity: contract.Warning, Code: contract.CodeSlow,
				Message: fmt.Sprintf("package postern.%s took %v of processor time for %s, and policy.timeout is %v", s, took.Round(time.Millisecond/10), what, p.timeout),
				Hint:    "make its rules cheaper, or set a longer policy.timeout: on a busy machine a decision takes several times as long"}))
		}
	}
	if found.Findings != nil {
		return slow, &found
	}
	return slow, nil
}

// measure decides t without waiting for a turn, and returns the processor time of the evaluation. The first evaluation after a compile
// is slower than later ones, so a slow one is tried twice more and the best counts.
func (p *Policy) measure(ctx context.Context, t *Transaction) (Decision, time.Duration) {
	in, fail := p.input(t, p.stages[t.Stage].build, p.stages[t.Stage].buildFields)
	if fail != nil {
		return failure(t, p.revision, fail), 0
	}
	var best Decision
	var least, sum time.Duration
	for i := range 3 {
		m := &meter{limit: overTimeout * p.timeout}
		d := p.decideInput(ctx, t, evaluation{stage: p.stages[t.Stage], input: in.value, limit: smokeTime, meter: m})
		if m.over.Load() {
			d = failure(t, p.revision, failf(kindTimeout, "it takes more than %v of processor time, which is %d times policy.timeout", m.limit, overTimeout))
		}
		used := time.Duration(m.used.Load())
		sum += used
		if i == 0 || used < least {
			best, least = d, used
		}
		if used <= p.timeout/nearTimeout || sum > time.Second || ctx.Err() != nil {
			break
		}
	}
	return best, least
}

// meter measures the processor time of an evaluation, and stops it at a limit. It is the evaluation's topdown.Cancel.
type meter struct {
	limit    time.Duration
	used     atomic.Int64 // nanoseconds; an abandoned evaluation sets it late
	deadline *deadline
	began    time.Duration
	steps    atomic.Uint64
	over     atomic.Bool
}

// Cancel stops the evaluation.
func (m *meter) Cancel() { m.deadline.stop() }

// Cancelled reports whether the evaluation was stopped. The evaluator asks at every step; the clock is looked at every 256 steps.
func (m *meter) Cancelled() bool {
	if m.steps.Add(1)%256 == 0 && threadTime()-m.began > m.limit {
		m.over.Store(true)
	}
	return m.over.Load() || m.deadline.Cancelled()
}

// place gives a finding the location of an evaluation error, or else of the stage's package.
func (p *Policy) place(s Stage, err error, f contract.Finding) contract.Finding {
	if loc := p.blame(s, err); loc != nil {
		f.File, f.Line, f.Column = strings.TrimPrefix(loc.File, "/"), loc.Row, loc.Col
	}
	return f
}

// blame returns the location of an evaluation error, or else of the stage's package.
func (p *Policy) blame(s Stage, err error) *ast.Location {
	var e *topdown.Error
	if errors.As(err, &e) && e.Location != nil && e.Location.File != "" {
		return e.Location
	}
	for _, name := range slices.Sorted(maps.Keys(p.compiler.Modules)) {
		if m := p.compiler.Modules[name]; m.Package.Path.Equal(s.Package()) {
			return m.Package.Location
		}
	}
	return nil
}

// plainTransaction returns a submission of Alice to Bob.
func plainTransaction(s Stage) (*Transaction, error) {
	header, err := message.ParseHeader([]byte("From: Alice <alice@example.com>\r\nTo: bob@example.net\r\nSubject: smoke\r\n"+
		"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <smoke@example.com>\r\n\r\n"), message.Limits{})
	if err != nil {
		return nil, fmt.Errorf("smoke transaction: %w", err)
	}
	alice := message.Path{Mailbox: message.Mailbox{Local: "alice", Domain: "example.com"}}
	bob := Recipient{Path: message.Path{Mailbox: message.Mailbox{Local: "bob", Domain: "example.net"}}}
	t := &Transaction{
		ID: "smoke", Stage: s, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Server: Server{Hostname: "mail.example.com", Listener: ":587", Door: "submission"},
		Client: Client{IP: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Port: 40000},
	}
	if s == StageConnect {
		return t, nil
	}
	t.Client.EHLO = "client.example.com"
	t.TLS = &TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"}
	t.Auth = &Auth{Login: "alice@example.com", Mechanism: "PLAIN", Backend: "smoke"}
	t.Envelope = &Envelope{From: alice}
	switch s {
	case StageRcpt:
		t.Recipient = &bob
	case StageMessage:
		t.Envelope.To = []Recipient{bob}
		t.Message = &Message{Header: header, Size: 1024,
			Body:      func(int) ([]byte, error) { return []byte("smoke\r\n"), nil },
			Generated: Generated{MessageID: "<smoke@mail.example.com>", Date: "Thu, 01 Jan 2026 00:00:00 +0000"}}
	}
	return t, nil
}

// largeRecipients is the number of recipients of a large transaction: as many as submission.limits.recipients allows by default.
const largeRecipients = 100

// largeTransaction returns the transaction with a large body and many recipients, or nil at a stage that has neither.
func largeTransaction(plain *Transaction) *Transaction {
	if plain.Stage != StageRcpt && plain.Stage != StageMessage {
		return nil
	}
	t, e := *plain, *plain.Envelope
	t.Envelope = &e
	e.To = nil
	for i := range largeRecipients {
		e.To = append(e.To, Recipient{Path: message.Path{Mailbox: message.Mailbox{Local: fmt.Sprintf("recipient%d", i), Domain: "example.net"}}})
	}
	if t.Stage == StageRcpt {
		e.To = e.To[1:]
		return &t
	}
	const line = "Dear Bob, see https://www.example.com/minutes?id=4711 or write to carol@example.org about invoice 1234-5678.\r\n"
	m := *plain.Message
	m.Size = maxBody + 1024
	m.Body = func(limit int) ([]byte, error) {
		return []byte(strings.Repeat(line, maxBody/len(line)+1)[:min(limit, maxBody)]), nil
	}
	t.Message = &m
	return &t
}
