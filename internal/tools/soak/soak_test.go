package main

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestSoak runs a soak of ten seconds: every kind of event happens, and nothing is lost.
func TestSoak(t *testing.T) {
	testenv.NotShort(t, "ten seconds and the built program")
	program := filepath.Join(t.TempDir(), "postern")
	if out, err := exec.Command("go", "build", "-o", program, "../../../cmd/postern").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := runSoak(context.Background(), options{Postern: program, For: 10 * time.Second, Rate: 25, Share: 0.8, Interval: time.Second,
		Pace: 400 * time.Millisecond, Idle: 40, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	r.Report(&text)
	t.Log(text.String())
	for _, v := range r.Verdicts {
		// Ten seconds from a cold start say nothing about growth.
		if grows := strings.Contains(v.Text, "in the last"); !v.OK && !v.Warn && !grows {
			t.Errorf("%s: %s", v.What, v.Text)
		}
	}
	if r.Tally.Accepted == 0 || r.Milter == 0 || len(r.Bad) < 5 || len(r.Reloads) < 2 || len(r.Samples) == 0 {
		t.Errorf("too little happened: %s, %d milter transactions, bad clients %v, reloads %v", r.Tally, r.Milter, r.Bad, r.Reloads)
	}
	var picture bytes.Buffer
	if err := r.SVG(&picture); err != nil || strings.Count(picture.String(), "<polyline") != 3 {
		t.Errorf("%v in %s", err, picture.String())
	}
}
