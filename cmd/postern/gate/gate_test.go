package gate

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
)

// TestTester: an outcome of tests counts for this program and these settings only, and none counts where no tests run.
func TestTester(t *testing.T) {
	policy := func(change func(*config.Policy)) string {
		p := config.Default(t.TempDir()).Policy
		p.Bundle = "b"
		change(&p)
		return New(p, engine.Options{AllowBuiltins: p.AllowBuiltins}).Tester()
	}
	usual := policy(func(*config.Policy) {})
	if len(usual) != 64 || usual != policy(func(p *config.Policy) { p.Data = []string{"senders.yaml"} }) {
		t.Errorf("%q, and another one with a document", usual)
	}
	for what, change := range map[string]func(*config.Policy){
		"test_timeout":   func(p *config.Policy) { p.TestTimeout = time.Second },
		"allow_builtins": func(p *config.Policy) { p.AllowBuiltins = []string{"http.send"} },
	} {
		if policy(change) == usual {
			t.Errorf("%s makes no difference", what)
		}
	}
	for what, change := range map[string]func(*config.Policy){
		"tests: off":         func(p *config.Policy) { p.Tests = "off" },
		"the default bundle": func(p *config.Policy) { p.Bundle = "" },
	} {
		if got := policy(change); got != "" {
			t.Errorf("%s: %q", what, got)
		}
	}
}
