package main

import "sync"

// counts counts by name. It is safe for concurrent use, and has at most 500 names.
type counts struct {
	mu sync.Mutex
	m  map[string]int
}

func (c *counts) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]int{}
	}
	if _, known := c.m[what]; !known && len(c.m) >= 500 {
		what = "others"
	}
	c.m[what] += n
}

func (c *counts) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]int, len(c.m))
	for k, v := range c.m {
		out[k] = v
	}
	return out
}
