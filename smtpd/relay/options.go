package relay

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"time"
)

// StartTLS says what to do with STARTTLS (RFC 3207) towards smtp:// and lmtp:// targets. The zero value is StartTLSAuto.
type StartTLS uint8

const (
	// StartTLSAuto uses TLS where the next hop offers it and takes any certificate: it hides from listeners, not from
	// an active attacker. A handshake that fails is not followed by plain text. With a Login, and a next hop that is
	// not on loopback or a unix socket, it means StartTLSRequired, so that no password goes to a stranger.
	StartTLSAuto StartTLS = iota
	// StartTLSOff never uses it.
	StartTLSOff
	// StartTLSRequired fails where it is not offered or the certificate does not verify.
	StartTLSRequired
)

// Options configure a next hop. The zero value is a working client without authentication.
type Options struct {
	// StartTLS for smtp:// and lmtp://. smtps:// is always TLS with a verified certificate (RFC 8314 §3.3).
	StartTLS StartTLS
	// CAs that vouch for the next hop; nil: the system's.
	CAs *x509.CertPool
	// ServerName the certificate must be for; "": the target's host.
	ServerName string

	// Login and Password for AUTH PLAIN or LOGIN (RFC 4954); Login "": none. They are sent only under TLS, or to a
	// loopback address or a unix socket.
	Login, Password string

	// Hello is our name in EHLO and LHLO; "": "localhost".
	Hello string

	Timeouts Timeouts
	Pool     Pool
	// Connections that are in use at once; who wants one more waits for it as long as for a connection. So a next hop that
	// hangs keeps that many clients waiting and no more. 0: 500.
	Connections int

	// Log receives connection failures, uncertain deliveries and next hops that went down; nil: nothing is logged.
	Log *slog.Logger
	// Metrics count; nil: nothing is counted.
	Metrics *Metrics
	// Now is the clock for idle times, down times and file names; nil: time.Now. Deadlines on connections use the real one.
	Now func() time.Time
	// Dial opens connections; nil: a net.Dialer. network is "tcp" or "unix".
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Timeouts of each step; zero fields take the defaults in brackets. They are shorter than the minima of RFC 5321 §4.5.3.2,
// because a client waits at the other end with those very minima.
type Timeouts struct {
	Connect  time.Duration // TCP connection [15 s]
	Greeting time.Duration // 220 [1 min]
	Command  time.Duration // each reply up to 354, and the TLS handshake [2 min]
	Block    time.Duration // each block of data written; a slow but steady next hop is not cut [2 min]
	Final    time.Duration // the reply after the end of data [5 min]
}

// step is one thing that is waited for: its limit by name, and for how long.
type step struct {
	limit string
	wait  time.Duration
}

// The limits by the names that the log and the metrics have for them: those of the configuration.
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

// Pool bounds kept connections; zero fields take the defaults in brackets.
type Pool struct {
	MaxIdle int           // connections kept for reuse; negative: none [32]
	Idle    time.Duration // for how long [30 s]
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
