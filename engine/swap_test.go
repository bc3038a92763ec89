package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestSwapWhileDeciding: every decision is made whole by the revision that it names.
func TestSwapWhileDeciding(t *testing.T) {
	policies := make([]*Policy, 4)
	for i := range policies {
		b := moduleBundle(map[string]any{"r": i}, "p.rego", fmt.Sprintf(
			"package postern.message\nreject contains sprintf(\"code-%d data-%%d\", [data.r])\nedit contains {\"op\": \"add_header\", \"name\": \"X-R\", \"value\": \"%d\"}", i, i))
		b.Manifest.Revision = fmt.Sprintf("r%d", i)
		var err error
		if policies[i], err = Compile(context.Background(), b, Options{Timeout: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	var e Engine
	e.Swap(policies[0])
	stop := make(chan struct{})
	var swapper, deciders sync.WaitGroup
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				e.Swap(policies[i%len(policies)])
			}
		}
	})
	seen := make([]map[string]bool, 4)
	for g := range seen {
		seen[g] = map[string]bool{}
		deciders.Go(func() {
			tr := submission(t)
			for range 500 {
				d := e.Decide(context.Background(), tr)
				want := fmt.Sprintf("code-%s data-%s", d.Revision[1:], d.Revision[1:])
				if d.Err != nil || d.Reasons[0].Rule != want {
					t.Errorf("revision %s: %s %v", d.Revision, describe(d), d.Err)
					return
				}
				seen[g][d.Revision] = true
			}
		})
	}
	deciders.Wait()
	close(stop)
	swapper.Wait()
	revisions := map[string]bool{}
	for _, m := range seen {
		for r := range m {
			revisions[r] = true
		}
	}
	if len(revisions) < 2 {
		t.Errorf("only %v decided: nothing was swapped", revisions)
	}
}
