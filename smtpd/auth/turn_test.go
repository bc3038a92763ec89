package auth

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestStrangersLetOthersGoFirst: a check of an unknown client begins when no trusted check is under way, or after courtesy.
func TestStrangersLetOthersGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c activity
		begin := time.Now()
		c.wait(context.Background(), courtesy) // nothing is under way
		first, second := c.enter(), c.enter()
		time.AfterFunc(100*time.Millisecond, first)
		time.AfterFunc(200*time.Millisecond, second)
		c.wait(context.Background(), courtesy)
		if took := time.Since(begin); took != 200*time.Millisecond {
			t.Errorf("began after %v, want when the last had left", took)
		}
		leave := c.enter()
		begin = time.Now()
		c.wait(context.Background(), courtesy)
		if took := time.Since(begin); took != courtesy {
			t.Errorf("began after %v, want %v", took, courtesy)
		}
		leave()
		c.wait(context.Background(), courtesy)
	})
}
