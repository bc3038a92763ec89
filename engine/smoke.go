package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/internal/message"
)

// smoke asks every stage about a plain transaction. A policy that errs or is too slow even there is refused. The first
// evaluation after a compile is slower than those that follow, so a time-out gets two more tries.
func (p *Policy) smoke(ctx context.Context) error {
	var found CompileError
	for _, s := range allStages() {
		if p.stages[s] == nil {
			continue
		}
		t, err := smokeTransaction(s)
		if err != nil {
			return err
		}
		var d Decision
		for range 3 {
			if d, _, _ = p.decide(ctx, t); d.Err == nil || d.Reasons[0].Rule != "error."+kindTimeout || ctx.Err() != nil {
				break
			}
		}
		if d.Err != nil {
			f := Finding{Severity: Fault, Code: codeSmoke, Hint: "see what it does with the input of a plain message in `postern eval`"}
			why := strings.Join(strings.Fields(d.Err.Error()), " ")
			f.Message = fmt.Sprintf("package postern.%s does not decide a plain transaction: %s", s, why)
			if loc := p.blame(s, d.Err); loc != nil {
				f.File, f.Line, f.Column = strings.TrimPrefix(loc.File, "/"), loc.Row, loc.Col
			}
			found.Findings = append(found.Findings, f)
		}
	}
	if found.Findings != nil {
		return &found
	}
	return nil
}

// blame is the place of an evaluation's error, or else the stage's package.
func (p *Policy) blame(s Stage, err error) *ast.Location {
	var e *topdown.Error
	if errors.As(err, &e) && e.Location != nil && e.Location.File != "" {
		return e.Location
	}
	for _, name := range slices.Sorted(maps.Keys(p.compiler.Modules)) {
		if m := p.compiler.Modules[name]; m.Package.Path.Equal(stagePackage(s)) {
			return m.Package.Location
		}
	}
	return nil
}

// smokeTransaction is a plain submission of Alice to Bob.
func smokeTransaction(s Stage) (*Transaction, error) {
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
