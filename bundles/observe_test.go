package bundles

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// kubernetesVolume makes a directory as the kubelet mounts a ConfigMap.
func kubernetesVolume(t testing.TB, revision string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	swap(t, dir, revision, files)
	for name := range files {
		link(t, filepath.Join("..data", name), filepath.Join(dir, name))
	}
	return dir
}

// swap updates such a directory: a new revision beside, then one rename of the link.
func swap(t testing.TB, dir, revision string, files map[string]string) {
	t.Helper()
	inner := "..2026_" + revision
	write(t, filepath.Join(dir, inner), files)
	link(t, inner, filepath.Join(dir, "..data_tmp"))
	rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
}

func link(t testing.TB, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
}

// observed is a running watcher with its outcomes.
type observed struct {
	t        *testing.T
	w        *Watcher
	registry *prometheus.Registry

	mu         sync.Mutex
	log        bytes.Buffer
	candidates []*Candidate
	refuse     error
}

func (o *observed) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(p)
}

func (o *observed) activate(_ context.Context, c *Candidate) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refuse != nil {
		return o.refuse
	}
	o.candidates = append(o.candidates, c)
	return nil
}

func (o *observed) activations() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.candidates)
}

func (o *observed) refusing(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refuse = err
}

func (o *observed) logged(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.log.String(), text)
}

// metric is the sum of a gauge or counter over what has these values of its first labels.
func (o *observed) metric(name string, labels ...string) float64 {
	o.t.Helper()
	families, err := o.registry.Gather()
	if err != nil {
		o.t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, f := range families {
		for _, m := range f.GetMetric() {
			match := f.GetName() == name
			for i, l := range labels {
				match = match && m.GetLabel()[i].GetValue() == l
			}
			if match {
				found = true
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	if !found {
		o.t.Fatalf("no metric %s %v", name, labels)
	}
	return sum
}

// watch runs a watcher over path until the test ends. Polling is off unless the test asks for it, so that it cannot hide
// a lost event.
func watch(t *testing.T, source Source, change func(*Watcher)) *observed {
	t.Helper()
	o := &observed{t: t, registry: prometheus.NewRegistry()}
	o.w = &Watcher{Source: source, Activate: o.activate, Settle: 30 * time.Millisecond, Poll: -1,
		Log: slog.New(slog.NewTextHandler(o, nil)), Metrics: o.registry}
	if change != nil {
		change(o.w)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return o
}

func (o *observed) until(what string, condition func() bool) {
	o.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if condition() {
			return
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.t.Fatalf("waited in vain: %s\n%s", what, o.log.String())
}

// untilRule waits until the active policy mentions text.
func (o *observed) untilRule(text string) *Candidate {
	o.t.Helper()
	var found *Candidate
	o.until("active policy with "+text, func() bool {
		found = o.w.Active()
		return found != nil && mentions(found, text)
	})
	return found
}

func mentions(c *Candidate, text string) bool {
	for _, m := range c.Bundle.Modules {
		if strings.Contains(string(m.Raw), text) {
			return true
		}
	}
	return strings.Contains(fmt.Sprint(c.Bundle.Data), text)
}
