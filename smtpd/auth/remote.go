package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// slots bound how many checks of a backend run at a time, and so its connections. Checks with WithTrust can have all of them, and the
// others three quarters, so that a storm of wrong passwords, or a server that is slow to reject them, leaves room for clients that
// have proved their login. Make them with newSlots.
type slots struct{ all, strangers chan struct{} }

// slotWait is how long a check waits for a slot before it is ErrUnavailable. Clients would give up soon after.
const slotWait = 10 * time.Second

// newSlots returns n slots.
func newSlots(n int) slots {
	return slots{all: make(chan struct{}, n), strangers: make(chan struct{}, max(1, n-(n+3)/4))}
}

// take waits for a slot, until ctx ends or for slotWait. The caller must call give afterwards.
func (s slots) take(ctx context.Context) (give func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, slotWait)
	defer cancel()
	if isTrusted(ctx) {
		err = put(ctx, s.all)
		return func() { <-s.all }, err
	}
	if err := put(ctx, s.strangers); err != nil {
		return nil, err
	}
	if err := put(ctx, s.all); err != nil {
		<-s.strangers
		return nil, err
	}
	return func() { <-s.all; <-s.strangers }, nil
}

// put takes a place in c until ctx ends.
func put(ctx context.Context, c chan struct{}) error {
	select {
	case c <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("too many logins at once: %w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// unavailable returns an ErrUnavailable.
func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}

// factText reports whether a text from a server may become a fact.
func factText(s string) bool {
	return s != "" && len(s) <= maxWord && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// facts are attributes from a server. Their number and size are bounded, and values that are not text are left out.
type facts map[string][]string

func (f facts) add(name, value string) {
	if !factText(name) || !factText(value) || len(f[name]) >= maxValues {
		return
	}
	if _, there := f[name]; !there && len(f) >= maxAttributes {
		return
	}
	f[name] = append(f[name], value)
}

// words splits the values of a group attribute at commas.
func words(values []string) (out []string) {
	for _, v := range values {
		for w := range strings.SplitSeq(v, ",") {
			if w = strings.TrimSpace(w); factText(w) {
				out = append(out, w)
			}
		}
	}
	return out
}

// inGroups adds groups to id. Too many groups are an error and are not cut, because a rule may refuse a group as well as allow one.
func (id Identity) inGroups(groups []string) (Identity, error) {
	if len(groups) > maxGroups {
		return Identity{}, unavailable("%s: %s is in more than %d groups; make the server send fewer", id.Backend, id.Login, maxGroups)
	}
	id.Groups = groups
	return id, nil
}

// isReset reports whether err means that the server had closed the connection before the request was written.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// until makes reads and writes on c end with ctx, until the function that it returns is called.
func until(ctx context.Context, c net.Conn) (release func()) {
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}
