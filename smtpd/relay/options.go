package relay

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"time"
)

// StartTLS says how STARTTLS (RFC 3207) is used for smtp:// and lmtp:// targets. The zero value is StartTLSAuto.
type StartTLS uint8

const (
	// StartTLSAuto uses TLS if the next hop offers it, and accepts any certificate: this protects from listeners, but not
	// from an active attacker. If the handshake fails, the message is not sent in the clear. With a Login, and a next hop
	// that is not on loopback or a unix socket, it means StartTLSRequired, so that no password reaches a stranger.
	StartTLSAuto StartTLS = iota
	// StartTLSOff never uses TLS.
	StartTLSOff
	// StartTLSRequired fails if TLS is not offered or the certificate is not valid.
	StartTLSRequired
)

// Options configure a next hop. The zero value is a working client without authentication.
type Options struct {
	// StartTLS is for smtp:// and lmtp://. smtps:// always uses TLS with a verified certificate (RFC 8314 §3.3).
	StartTLS StartTLS
	// CAs sign the next hop's certificate; nil: the system's.
	CAs *x509.CertPool
	// ServerName is the name that the certificate must have; "": the target's host.
	ServerName string

	// Login and Password are for AUTH PLAIN or LOGIN (RFC 4954); Login "": no AUTH. They are sent only under TLS, or to a
	// loopback address or a unix socket.
	Login, Password string

	// Hello is the name in EHLO and LHLO; "": "localhost".
	Hello string

	Timeouts Timeouts
	Pool     Pool
	// Connections may be in use at once. A transaction that needs one more waits for up to Timeouts.Connect. So a next hop
	// that hangs keeps only that many clients waiting. 0: 500.
	Connections int

	// Log gets limits that are reached, uncertain deliveries and next hops that fail; nil: nothing is logged.
	Log *slog.Logger
	// Metrics count; nil: nothing is counted.
	Metrics *Metrics
	// Now is the clock for idle times, down times and file names; nil: time.Now. Deadlines of connections use time.Now.
	Now func() time.Time
	// Dial opens connections; nil: a net.Dialer. network is "tcp" or "unix".
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Timeouts are the time limits of each step; zero fields mean the defaults in brackets. They are shorter than the minima of
// RFC 5321 §4.5.3.2, because the client, which waits meanwhile, may use those minima.
type Timeouts struct {
	Connect  time.Duration // TCP connection [15 s]
	Greeting time.Duration // 220 [1 min]
	Command  time.Duration // each reply up to 354, and the TLS handshake [2 min]
	Block    time.Duration // each written block of data, so that a slow but steady next hop is not cut [2 min]
	Final    time.Duration // the reply after the end of data [5 min]
}

// step is something that is waited for: its time limit and the limit's name.
type step struct {
	limit string
	wait  time.Duration
}

// Names of limits in the log and the metrics: the keys of the configuration.
const (
	limitConnections = "connections"
	limitConnect     = "connect"
	limitGreeting    = "greeting"
	limitCommand     = "command"
	limitBlock       = "block"
	limitFinal       = "final"
)

func limitNames() []string {
	return []string{limitConnections, limitConnect, limitGreeting, limitCommand, limitBlock, limitFinal}
}

func (t Timeouts) connect() step  { return step{limitConnect, t.Connect} }
func (t Timeouts) greeting() step { return step{limitGreeting, t.Greeting} }
func (t Timeouts) command() step  { return step{limitCommand, t.Command} }
func (t Timeouts) block() step    { return step{limitBlock, t.Block} }
func (t Timeouts) final() step    { return step{limitFinal, t.Final} }

// Pool limits the connections that are kept for reuse; zero fields mean the defaults in brackets.
type Pool struct {
	MaxIdle int           // connections; negative: none [32]
	Idle    time.Duration // how long a connection is kept unused [30 s]
	MaxUses int           // messages on one connection [1000]
}

func (o Options) withDefaults() Options {
	t := &o.Timeouts
	t.Connect = cmp.Or(t.Connect, 15*time.Second)
	t.Greeting = cmp.Or(t.Greeting, time.Minute)
	t.Command = cmp.Or(t.Command, 2*time.Minute)
	t.Block = cmp.Or(t.Block, 2*time.Minute)
	t.Final = cmp.Or(t.Final, 5*time.Minute)
	o.Connections = cmp.Or(o.Connections, 500)
	o.Pool.MaxIdle = cmp.Or(o.Pool.MaxIdle, 32)
	o.Pool.Idle = cmp.Or(o.Pool.Idle, 30*time.Second)
	o.Pool.MaxUses = cmp.Or(o.Pool.MaxUses, 1000)
	if o.Hello == "" {
		o.Hello = "localhost"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}
