package engine

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine/contract"
)

// slowRules takes long for the transactions with a word in it that cond looks for.
func slowRules(cond string) string {
	return "package postern.message\nreject contains \"x\" if {\n" + cond + "\nsome i in numbers.range(1, 60000)\ni < 0\n}"
}

// codes of the findings of Check.
func codes(b *bundle.Bundle, timeout time.Duration) (list []string, text string) {
	for _, f := range Check(context.Background(), b, Options{Timeout: timeout}) {
		list = append(list, f.Code)
		text += f.String() + "\n"
	}
	return list, text
}

// TestSlow: a stage that comes near its time-out, for a plain or a large message, gets a warning with the time it took. It is refused only
// where it would always run into its time-out. The bounds are a hundred times apart from what is measured, for any machine.
func TestSlow(t *testing.T) {
	const plain, body, many = `input.stage == "message"`, `count(input.message.body.text) > 1000000`, `count(input.envelope.to) > 50`
	for _, c := range []struct {
		name, rego string
		timeout    time.Duration
		code, text string
	}{
		{"plain, far from it", slowRules(plain), 10 * time.Second, "", ""},
		{"body, far from it", slowRules(body), 10 * time.Second, "", ""},
		{"body", slowRules(body), 5 * time.Millisecond, contract.CodeSlow, "for a message of 1 MiB to 100 recipients, and policy.timeout is 5ms"},
		{"recipients", slowRules(many), 5 * time.Millisecond, contract.CodeSlow, "for a message of 1 MiB to 100 recipients"},
		{"body, far beyond", slowRules(body), time.Millisecond / 2, contract.CodeSlow, "1 MiB"},
		{"plain, far beyond", slowRules(plain), time.Millisecond / 2, contract.CodeSmoke, "more than 1ms of processor time, which is 2 times policy.timeout"},
		{"recipients at rcpt", strings.Replace(slowRules("input.envelope.recipient_count == 99"), ".message", ".rcpt", 1), 5 * time.Millisecond, contract.CodeSlow, "postern.rcpt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, text := codes(moduleBundle(nil, "p.rego", c.rego), c.timeout)
			if got := strings.Join(found, " "); got != c.code || !strings.Contains(text, c.text) || c.code != "" && !strings.Contains(text, "p.rego:1") {
				t.Errorf("got %q, want %q:\n%s", got, c.code, text)
			}
		})
	}
}

// TestSlowFromAQuarter: the warning comes where a decision takes half of the time-out.
func TestSlowFromAQuarter(t *testing.T) {
	p := compile(t, nil, slowRules(`input.stage == "message"`), Options{Timeout: time.Minute})
	tr, err := plainTransaction(StageMessage)
	if err != nil {
		t.Fatal(err)
	}
	d, took := p.measure(context.Background(), tr)
	if p.timeout = 2 * took; d.Err != nil || took == 0 {
		t.Fatalf("it took %v: %v", took, d.Err)
	}
	if slow, err := p.smoke(context.Background()); err != nil || len(slow) != 1 || slow[0].Code != contract.CodeSlow {
		t.Errorf("%v of %v: %v, %v", took, p.timeout, slow, err)
	}
}

// TestSlowEnds: a rule that never ends is refused after a bounded processor time, and a caller that gives up ends it.
func TestSlowEnds(t *testing.T) {
	const endless = "package postern.message\nreject contains \"x\" if { some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == -1 }"
	began := threadTime()
	found, text := codes(moduleBundle(nil, "p.rego", endless), 50*time.Millisecond)
	if len(found) != 1 || found[0] != contract.CodeSmoke || !strings.Contains(text, "more than 100ms of processor time") {
		t.Errorf("after %v: %s", threadTime()-began, text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := Compile(ctx, moduleBundle(nil, "p.rego", endless), Options{Timeout: 10 * time.Second}); err == nil || ctx.Err() == nil {
		t.Errorf("compile with a context that ends: %v", err)
	}
}

// TestSlowData: new data is measured too, and takes back what was said of the data before.
func TestSlowData(t *testing.T) {
	const rego = "package postern.message\nreject contains \"x\" if {\ninput.stage == \"message\"\nsome i in numbers.range(1, data.n)\ni < 0\n}"
	p := compile(t, map[string]any{"n": 10}, rego, Options{Timeout: 20 * time.Millisecond})
	slow, err := p.WithData(context.Background(), map[string]any{"n": 30000}, "")
	if err != nil && !strings.Contains(err.Error(), "processor time") { // a very slow machine
		t.Fatal(err)
	}
	if err == nil && (len(slow.Warnings()) != 1 || slow.Warnings()[0].Code != contract.CodeSlow) {
		t.Errorf("slow data: %v", slow.Warnings())
	}
	if err == nil {
		if again, err := slow.WithData(context.Background(), map[string]any{"n": 10}, ""); err != nil || len(again.Warnings()) != 0 {
			t.Errorf("quick data again: %v, %v", again.Warnings(), err)
		}
	}
	if len(p.Warnings()) != 0 {
		t.Errorf("the first policy changed: %v", p.Warnings())
	}
}
