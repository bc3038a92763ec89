package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// RecentLogins remembers for a short while who has logged in elsewhere, and from which address, for "POP before SMTP". It
// does not authenticate a client. It only says that a user at an address logged in a while ago; many people may share an address,
// and an address may pass to others. Policies decide what that is worth.
//
// The zero value is ready for use. It is safe for concurrent use, and its memory is bounded.
type RecentLogins struct {
	// Life is how long a login is remembered; 0: 10 minutes.
	Life time.Duration
	// Entries is how many logins are remembered; 0: 65,536 (about 10 MB). A full table drops expired entries first, then any.
	Entries int
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets a record of notices that Serve drops; nil: nothing is logged.
	Logger *slog.Logger

	mu   sync.Mutex
	last map[netip.Addr]recentLogin
}

type recentLogin struct {
	login string
	at    time.Time
}

// Add remembers that login was proved from addr. An IPv6 address is remembered itself, because others may share its /64.
func (r *RecentLogins) Add(addr netip.Addr, login string) error {
	login, ok := Login(login)
	addr = addr.Unmap().WithZone("")
	if !ok || !addr.IsValid() || addr.IsUnspecified() {
		return errors.New("this is not an address and a login")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.last == nil {
		r.last = map[netip.Addr]recentLogin{}
	}
	if _, there := r.last[addr]; !there && len(r.last) >= cmp.Or(r.Entries, 1<<16) {
		r.makeRoom(now)
	}
	r.last[addr] = recentLogin{login, now}
	return nil
}

// Last returns the login that was last proved from addr, and how long ago that was.
func (r *RecentLogins) Last(addr netip.Addr) (login string, age time.Duration, ok bool) {
	addr = addr.Unmap().WithZone("")
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.last[addr]
	if age = max(0, r.now().Sub(l.at)); !ok || age >= cmp.Or(r.Life, 10*time.Minute) {
		return "", 0, false
	}
	return l.login, age, true
}

func (r *RecentLogins) makeRoom(now time.Time) {
	const look = 64
	var victim netip.Addr
	seen := 0
	for addr, l := range r.last {
		if now.Sub(l.at) >= cmp.Or(r.Life, 10*time.Minute) {
			delete(r.last, addr)
		} else {
			victim = addr
		}
		if seen++; seen == look {
			break
		}
	}
	if len(r.last) >= cmp.Or(r.Entries, 1<<16) {
		delete(r.last, victim)
	}
}

func (r *RecentLogins) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// maxNotice bounds a notice, in bytes: an address, a space and a login.
const maxNotice = 64 + MaxLogin

// ListenRecent opens the unix datagram socket at path, which receives notices. Every process that may write to it is trusted, so
// mode should let only the group of the reporting server write. A socket that a process left behind is replaced.
func ListenRecent(path string, mode os.FileMode) (*net.UnixConn, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unixgram", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s: another process listens there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Serve reads notices from c until ctx ends, and closes c. A notice is one datagram, "address login", with or without a line end.
// Others are dropped, and their number is logged once a minute. The caller owns the goroutine that it runs on.
func (r *RecentLogins) Serve(ctx context.Context, c *net.UnixConn) error {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	log := r.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var dropped int
	var told time.Time
	for b := make([]byte, maxNotice+1); ; {
		n, _, err := c.ReadFromUnix(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("recent logins: %w", err)
		}
		if err := r.notice(b[:n]); err == nil {
			continue
		}
		if dropped++; r.now().Sub(told) >= time.Minute {
			log.Warn("invalid notices of logins elsewhere were dropped", "count", dropped, "want", "address login")
			dropped, told = 0, r.now()
		}
	}
}

func (r *RecentLogins) notice(b []byte) error {
	if len(b) > maxNotice {
		return errors.New("too long")
	}
	ip, login, _ := strings.Cut(strings.TrimRight(string(b), "\r\n"), " ")
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return err
	}
	return r.Add(addr, login)
}
