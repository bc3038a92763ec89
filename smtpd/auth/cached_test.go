package auth

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// counting is a slow Backend: password "right" is.
type counting struct {
	asked  int
	during func()
}

func (c *counting) Name() string { return "counting" }

func (c *counting) Password(_ context.Context, login, password string) (Identity, error) {
	c.asked++
	if c.during != nil {
		c.during()
	}
	if password != "right" {
		return Identity{}, ErrCredentials
	}
	return Identity{Login: login, Backend: "counting", Groups: []string{"g"}}, nil
}

func TestCached(t *testing.T) {
	now, b := time.Unix(1e9, 0), &counting{}
	c := NewCached(b, CacheOptions{Life: time.Minute, Size: 2, Now: func() time.Time { return now }})
	ask := func(what, login, password string, asked int) {
		t.Helper()
		id, err := c.Password(context.Background(), login, password)
		if (err == nil) != (password == "right") || err == nil && (id.Login != login || len(id.Groups) != 1 || id.Backend != c.Name()) {
			t.Errorf("%s: %+v, %v", what, id, err)
		}
		if b.asked != asked {
			t.Errorf("%s: asked %d times, want %d", what, b.asked, asked)
		}
	}
	ask("first", "a", "right", 1)
	ask("again", "a", "right", 1)
	ask("wrong", "a", "wrong", 2)
	ask("a failure is not remembered", "a", "wrong", 3)
	ask("another", "b", "right", 4)
	ask("still", "a", "right", 4)
	if _, err := c.Password(WithClient(context.Background(), netip.MustParseAddr("192.0.2.1")), "a", "right"); err != nil || b.asked != 5 {
		t.Errorf("another address: %v, asked %d times", err, b.asked)
	}
	if len(c.cache.entries) > 2 {
		t.Errorf("%d entries of at most 2", len(c.cache.entries))
	}
	c.Flush()
	ask("after Flush", "a", "right", 6)
	now = now.Add(time.Minute)
	ask("when it is over", "a", "right", 7)
	c.Flush()
	b.during = c.Flush // a change while the check is under way
	ask("flushed meanwhile", "a", "right", 8)
	b.during = nil
	ask("then it was not remembered", "a", "right", 9)
	c = NewCached(b, CacheOptions{Life: -1})
	ask("no cache", "a", "right", 10)
	ask("no cache", "a", "right", 11)
}
