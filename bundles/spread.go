package bundles

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// spread calls do for 0 to n-1 on as many goroutines as there are processors, and waits for all of them.
func spread(n int, do func(int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				do(i)
			}
		})
	}
	all.Wait()
}
