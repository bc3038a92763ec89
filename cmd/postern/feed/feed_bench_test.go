package feed

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// benchRules is a bundle of n rules, 50 a file, with tests of the first of them.
func benchRules(n, tests int) map[string]string {
	files := map[string]string{".manifest": `{"revision": "r"}`}
	add := func(name, head, rule string) {
		if files[name] == "" {
			files[name] = head
		}
		files[name] += rule
	}
	for i := range n {
		name := fmt.Sprintf("postern/mail/r%03d", i/50)
		add(name+".rego", "package postern.mail\n", fmt.Sprintf(`
reject contains {"rule": "r%[1]d", "message": "Not from here"} if {
	input.client.name == "host%[1]d.example.com"
	input.envelope.from.domain == "d%[1]d.example"
}
`, i))
		if i < tests {
			add(name+"_test.rego", "package postern.mail_test\n\nimport data.postern.mail\n", fmt.Sprintf(`
test_r%[1]d if {
	count(mail.reject) == 1 with input as {"client": {"name": "host%[1]d.example.com"}, "envelope": {"from": {"domain": "d%[1]d.example"}}}
}
`, i))
		}
	}
	return files
}

// BenchmarkGate loads a bundle from its files and makes it active: read, parse, compile, lint, its tests, one transaction for each stage,
// swap. Meanwhile another goroutine asks for a decision every 200 µs: idle-p99-µs is the 99th percentile of its latency before, busy-p99-µs
// during the load. live-MB is the memory of the active policy, peak-MB the largest growth of the heap.
func BenchmarkGate(b *testing.B) {
	sizes := []int{100, 1000, 10000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		for _, tests := range []int{0, 100} {
			b.Run(fmt.Sprintf("rules=%d/tests=%d", n, tests), func(b *testing.B) {
				dir := b.TempDir()
				putAll(b, dir, benchRules(n, tests))
				benchGate(b, dir)
			})
		}
	}
}

func benchGate(b *testing.B, dir string) {
	eng := &engine.Engine{}
	p := config.Default(b.TempDir()).Policy
	p.Bundle, p.Timeout, p.TestTimeout = dir, 5*time.Second, 10*time.Minute
	idle := 2 * time.Second
	if testing.Short() {
		idle = 50 * time.Millisecond
	}
	reload := func() {
		f, err := New(p, engine.Options{Timeout: p.Timeout}, filepath.Join(b.TempDir(), "keep"), eng, slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
		if err == nil {
			err = f.Watcher.Start(context.Background())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	before := heap(true)
	reload()
	live := heap(true) - before
	quiet := p99(eng, func() { time.Sleep(idle) })
	var peak uint64
	busy := p99(eng, func() {
		start := heap(false)
		stop := make(chan struct{})
		var sampler sync.WaitGroup
		sampler.Go(func() {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-stop:
					tick.Stop()
					return
				case <-tick.C:
					if now := heap(false); now > start {
						peak = max(peak, now-start)
					}
				}
			}
		})
		for b.Loop() {
			reload()
		}
		close(stop)
		sampler.Wait()
	})
	b.ReportMetric(float64(quiet.Microseconds()), "idle-p99-µs")
	b.ReportMetric(float64(busy.Microseconds()), "busy-p99-µs")
	b.ReportMetric(float64(live)/1e6, "live-MB")
	b.ReportMetric(float64(peak)/1e6, "peak-MB")
}

// heap is what objects on the heap take.
func heap(collect bool) uint64 {
	if collect {
		runtime.GC()
		runtime.GC()
	}
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// p99 asks for decisions while something else goes on.
func p99(eng *engine.Engine, meanwhile func()) time.Duration {
	stop := make(chan struct{})
	var took []time.Duration
	var client sync.WaitGroup
	client.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			began := time.Now()
			eng.Decide(context.Background(), &engine.Transaction{ID: "t", Stage: engine.StageMail, Now: began,
				Client:   engine.Client{IP: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Name: "host7.example.com"},
				Envelope: &engine.Envelope{From: message.Path{Mailbox: message.Mailbox{Local: "a", Domain: "d7.example"}}}})
			took = append(took, time.Since(began))
		}
	})
	meanwhile()
	close(stop)
	client.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
}
