package smtpd

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/relay"
	"github.com/postern-mail/postern/smtpd/wire"
)

// Server takes mail from authenticated clients, asks policy about it, and hands accepted mail to a next hop. Its fields are set
// before the first Serve. Hostname, Engine and Relay are required.
type Server struct {
	Hostname string // in the greeting, the reply to EHLO, and Received fields
	Engine   *engine.Engine
	Relay    relay.Hop
	// Quarantine takes what policy quarantines; nil: such a message is deferred with 451.
	Quarantine relay.Hop
	// Auth backends, tried in order; none: AUTH is not offered.
	Auth []auth.Backend
	// Throttle counts failed logins by address and login over all connections; nil: each connection counts its own.
	Throttle *auth.Throttle
	// RecentLogins are logins at other servers, for policy to read; nil: none are known.
	RecentLogins *auth.RecentLogins
	// Anonymous lets clients send without authentication.
	Anonymous bool
	// TLS returns the configuration for each handshake; nil, or a nil configuration: no TLS, and so no AUTH.
	TLS    func() *tls.Config
	Limits Limits
	// Extensions says of keywords of EHLO whether they are offered: 8BITMIME, CHUNKING, DSN, LIMITS, OLD_AUTH and SMTPUTF8. 8BITMIME, DSN and SMTPUTF8 are offered
	// by default if all next hops have them that were ever reached, CHUNKING and LIMITS always.
	Extensions map[string]bool
	// StrictCommands refuses commands that are not written as RFC 5321 says: any name in EHLO, AUTH after HELO, blanks before a path, and a path
	// without brackets are taken otherwise, where they have one meaning.
	StrictCommands bool
	// Received is "full" (or ""), "private" (without the client's address and name), or a template; see CheckReceived.
	Received string
	// SpoolDir is the directory for messages that do not fit into memory; "": os.TempDir.
	SpoolDir string

	Log     *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is counted
	Clock   func() time.Time // nil: time.Now
	Rand    io.Reader        // nil: crypto/rand

	once     sync.Once
	setupErr error
	wire     *wire.Server
	ids      ids
	hits     limit.Reporter // of limits
	place    message.Place  // where messages are spooled
	logSeed  maphash.Seed   // for the hashes of logins that the log must not show
	table    connections
	running  sync.WaitGroup // connections

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	stop      chan struct{} // closed when Shutdown begins
	stopOnce  sync.Once
}

// Listener is a socket on which clients connect, with what holds for its connections.
type Listener struct {
	net.Listener
	Name    string         // for policy and logs; "": the address
	TLS     bool           // implicit TLS (RFC 8314), not STARTTLS
	Trusted []netip.Prefix // proxies that must send a PROXY header
	// Mechanisms of authentication that may be used here, by their names in EHLO; none: all that the backends can serve.
	Mechanisms []string
	Failure    engine.Verdict // when policy cannot decide; the zero value is Defer

	observer *atomic.Pointer[observer] // set by Serve
}

// observer is a TLS configuration and a copy of it that observes what a handshake uses. Each listener keeps one until its
// configuration changes. The copy holds the keys of session tickets, which are made at its first handshake. So a ticket of one
// listener is not valid at another, which may ask its clients for a certificate.
type observer struct{ config, observed *tls.Config }

// ErrServerClosed is returned by Serve after Shutdown.
var ErrServerClosed = errors.New("smtpd: server closed")

func (s *Server) now() time.Time {
	if s.Clock != nil {
		return s.Clock()
	}
	return time.Now()
}

func (s *Server) logger() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (s *Server) tlsConfig() *tls.Config {
	if s.TLS == nil {
		return nil
	}
	return s.TLS()
}

// stopChan is made on first use; mu is held.
func (s *Server) stopChan() chan struct{} {
	if s.stop == nil {
		s.stop = make(chan struct{})
	}
	return s.stop
}

// stopping is closed when Shutdown begins.
func (s *Server) stopping() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopChan()
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping():
		return true
	default:
		return false
	}
}

// ids makes transaction ids of sixteen letters and digits: ten of the time in milliseconds, and six of a counter with a random
// start. They sort by time, are unique within a process, and almost certainly unique between processes.
type ids struct{ counter atomic.Uint32 }

// digits are Crockford's, in the order of ASCII and without letters that look like others.
const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func (n *ids) seed(random io.Reader) error {
	var b [4]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return err
	}
	n.counter.Store(binary.LittleEndian.Uint32(b[:]))
	return nil
}

func (n *ids) next(now time.Time) string {
	var b [16]byte
	v := uint64(now.UnixMilli())
	for i := 9; i >= 0; i-- {
		b[i], v = digits[v%32], v/32
	}
	c := n.counter.Add(1)
	for i := 15; i >= 10; i-- {
		b[i], c = digits[c%32], c/32
	}
	return string(b[:])
}
