// Package check collects what is wrong with a configuration, its policy, and a Postfix that uses it, for `postern check`.
//
// It starts no goroutines.
package check

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/postfix"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Report is what `postern check --json` prints. Its fields and those of the findings are stable.
type Report struct {
	OK            bool               `json:"ok"`
	Configuration yamldoc.Findings   `json:"configuration"`
	Policy        []contract.Finding `json:"policy"`
	Postfix       []postfix.Finding  `json:"postfix,omitempty"`
	Bundle        string             `json:"bundle"`
	Revision      string             `json:"revision,omitempty"`
	Errors        int                `json:"errors"`
	Warnings      int                `json:"warnings"`

	settings map[string]any // of the policy's data; nil where it has none
	lines    []string       // the findings as text
	measured int            // warnings about how long something took
}

// NewReport returns a report without findings.
func NewReport() *Report {
	return &Report{Configuration: yamldoc.Findings{}, Policy: []contract.Finding{}}
}

// count adds the text of a finding and counts it.
func (r *Report) count(warning bool, line string) {
	r.lines = append(r.lines, line)
	if warning {
		r.Warnings++
	} else {
		r.Errors++
	}
}

// AddConfiguration adds what is wrong with the configuration.
func (r *Report) AddConfiguration(found yamldoc.Findings) {
	for _, f := range found {
		r.Configuration = append(r.Configuration, f)
		r.count(f.Warning, f.Detail())
	}
}

// CheckPolicy adds what is wrong with the policy of a configuration. data names more data documents.
func (r *Report) CheckPolicy(ctx context.Context, cfg *config.Config, data []string, o engine.Options) {
	r.Bundle = gate.Name(cfg.Policy)
	c, err := gate.Load(ctx, cfg.Policy, data...)
	if err != nil {
		r.Policy = append(r.Policy, gate.Findings(err)...)
	} else {
		r.Revision = c.Revision
		r.settings, _ = c.Bundle.Data["settings"].(map[string]any)
		r.Policy = append(r.Policy, gate.Check(ctx, c, o)...)
	}
	for _, f := range r.Policy {
		r.count(f.Severity == contract.Warning, f.String())
		if f.Code == contract.CodeSlow {
			r.measured++
		}
	}
}

// Settle sets OK. strict lets warnings fail, but not those that depend on how fast the machine is.
func (r *Report) Settle(strict bool) {
	r.OK = r.Errors == 0 && (r.Warnings == r.measured || !strict)
}

// CheckPostfix adds what in the configuration of a Postfix does not fit this one. dir is the directory of main.cf, or "" for Postfix's own.
// CheckPolicy must come first, because it reads the settings of the policy.
func (r *Report) CheckPostfix(ctx context.Context, cfg *config.Config, dir string) {
	setup, err := postfix.Read(ctx, dir)
	if slices.ContainsFunc(cfg.Milter.Listen, func(l config.MilterListener) bool { return l.Network == "systemd" }) {
		r.Postfix = []postfix.Finding{{Severity: postfix.Warning, Where: "postern.yaml: milter.listen", Message: "systemd opens this socket and only its unit says where, so Postfix was not compared with it",
			Mend: "for this check, write what the unit has at ListenStream=, as unix:/path or tcp:host:port"}}
	} else if err != nil {
		r.Postfix = []postfix.Finding{{Severity: postfix.Error, Where: "postconf", Message: err.Error(), Mend: "give --postfix-config the directory of main.cf"}}
	} else {
		r.Postfix = postfix.Check(setup, r.expected(cfg))
	}
	for _, f := range r.Postfix {
		r.count(f.Severity == postfix.Warning, fmt.Sprintf("%s: %s: %s\n    %s", f.Where, f.Severity, f.Message, f.Mend))
	}
}

// expected returns what Postfix has to fit. Only the default policy has settings that say whom it refuses.
func (r *Report) expected(cfg *config.Config) postfix.Milter {
	b := postfix.Milter{Timeout: cfg.Policy.MaxWait + cfg.Policy.Timeout}
	for _, l := range cfg.Milter.Listen {
		b.Listen = append(b.Listen, postfix.Listener{Network: l.Network, Address: l.Address, Mode: l.Mode, Group: l.Group})
	}
	if r.settings != nil {
		b.NeedsLogin, b.RefusesLocal = r.settings["require_auth"] != false, r.settings["allow_local"] != true
	}
	return b
}

// Print writes the findings to errs, and the result to out or errs.
func (r *Report) Print(out, errs io.Writer) {
	for _, l := range r.lines {
		fmt.Fprintln(errs, l)
	}
	if r.OK {
		fmt.Fprintf(out, "ok: %s, revision %s%s\n", r.Bundle, r.Revision, counted(", ", r.Warnings, "warning"))
		return
	}
	fmt.Fprintf(errs, "refused: %s%s%s\n", r.Bundle, counted(", ", r.Errors, "error"), counted(", ", r.Warnings, "warning"))
}

// counted returns a number of things after a separator, as in ", 3 errors", or "" for 0.
func counted(before string, n int, what string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return before + "1 " + what
	}
	return fmt.Sprintf("%s%d %ss", before, n, what)
}
