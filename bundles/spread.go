package bundles

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// spread calls do for 0 to n-1 on as many goroutines as there are processors, and waits for all of them. A process that has little to
// do may have left itself one processor (cmd/postern) until this gives it more.
func spread(n int, do func(int)) {
	workers := min(max(runtime.GOMAXPROCS(0), min(runtime.NumCPU(), 4)), n)
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
