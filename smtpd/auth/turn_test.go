package auth

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestStrangersLetOthersGoFirst: a stranger's check begins when nobody with trust is inside, or after courtesy.
func TestStrangersLetOthersGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c activity
		begin := time.Now()
		c.wait(context.Background(), courtesy) // nobody is inside
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
