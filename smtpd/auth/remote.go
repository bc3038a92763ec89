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

// slots bound how many checks of a backend run at a time, and so its connections.
type slots chan struct{}

// take waits for a slot until ctx ends.
func (s slots) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("too many logins at once: %w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

func (s slots) give() { <-s }

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
