package main

import (
	"bytes"
	"context"
	"reflect"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/trial"
)

// lineRecorder writes the decision log line of each decision, and keeps what it was made of.
type lineRecorder struct {
	lines     [][]byte
	decisions []engine.Decision
}

func (r *lineRecorder) Record(_ context.Context, rec engine.Record) error {
	r.lines = append(r.lines, decisionlog.NewEntry(rec).AppendJSON(nil))
	r.decisions = append(r.decisions, *rec.Decision)
	return nil
}

// TestGoldenLogged decides what the log remembers of the golden transactions: at every stage it must come to what the live
// path came to, whole.
func TestGoldenLogged(t *testing.T) {
	testenv.NotShort(t, "several seconds")
	stages := map[engine.Stage]int{}
	parser := decisionlog.NewParser()
	golden(t, func(t *testing.T, c *trial.Case, eng *engine.Engine, _ string) {
		recorder := &lineRecorder{}
		eng.Recorder = recorder
		if _, err := trial.Run(context.Background(), eng, c.Transaction); err != nil {
			t.Fatal(err)
		}
		for i, text := range recorder.lines {
			live := recorder.decisions[i]
			stages[live.Stage]++
			line, err := parser.Parse(text)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			question, err := parser.Logged(line)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			lacks := eng.Policy().Lacks(question)
			if bytes.Contains(text, []byte(`"erased":["/input/message/body/text"]`)) { // no line has a body, and that must be told
				if len(lacks) != 1 || lacks[0] != "message.body" {
					t.Errorf("lacks %v; it has no body", lacks)
				}
				continue
			}
			if len(lacks) > 0 {
				t.Errorf("the policy that logged it lacks %v", lacks)
			}
			if got := question.Input.AppendJSON(nil); !bytes.Contains(text, append([]byte(`"input":`), got...)) {
				t.Errorf("read back as %s\nfrom %s", got, text)
			}
			d := eng.Policy().DecideLogged(context.Background(), question)
			same(t, live, d)
			if x, err := eng.Policy().Explain(context.Background(), question); err != nil || x.Error != "" && live.Err == nil {
				t.Errorf("explain: %v %v", err, x)
			} else {
				same(t, live, x.Decision)
			}
		}
	})
	for s := engine.StageMail; s <= engine.StageMessage; s++ {
		if stages[s] < 20 {
			t.Errorf("only %d decisions at stage %s", stages[s], s)
		}
	}
}

// same but for the time it took. Errors are compared by their words, but for those that have a stack in them.
func same(t *testing.T, live, logged engine.Decision) {
	t.Helper()
	if (live.Err == nil) != (logged.Err == nil) || live.Err != nil && live.Err.Error() != logged.Err.Error() {
		t.Errorf("error %v, was %v", logged.Err, live.Err)
	}
	live.Latency, live.Err, logged.Latency, logged.Err = 0, nil, 0, nil
	if len(live.Reasons)+len(logged.Reasons) == 0 {
		live.Reasons, logged.Reasons = nil, nil
	}
	if !reflect.DeepEqual(live, logged) {
		t.Errorf("decided %+v, was %+v", logged, live)
	}
}
