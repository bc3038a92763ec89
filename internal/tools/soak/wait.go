package main

import (
	"context"
	"math/rand/v2"
	"net"
	"time"
)

// reset closes a connection with a TCP reset.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// pause sleeps for a random time between least and most seconds.
func pause(least, most float64) {
	time.Sleep(time.Duration((least + rand.Float64()*(most-least)) * float64(time.Second)))
}

// wait sleeps, or returns early with false when ctx ends.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
