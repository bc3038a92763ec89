package smtpd

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/wire"
)

// Limits bound what clients can use. Zero fields take the defaults that Declared gives.
type Limits struct {
	MessageBytes     int64          // of one message as it was sent, without the end of data
	Recipients       int            // of one message; ten times as many RCPT commands between two messages
	Connections      int            // in all
	ConnectionsPerIP int            // from one IPv4 address or IPv6 /64
	UnusedPerIP      int            // from one such network in about a second, of those that ended without a login or a message
	Commands         int            // that do not send a message, between two messages on one connection
	Errors           int            // commands wrong in form or order, on one connection
	Messages         int            // on one connection
	AuthFailures     int            // on one connection
	AuthDelay        time.Duration  // after a failed login, doubled after each further one, with jitter; negative: none [1 s]
	CommandLine      int            // octets of a command with its CRLF, except AUTH
	Line             int            // octets of a line of a message with its CRLF
	Chunks           int            // BDAT commands of one message, beyond one for each KiB of it
	Idle             time.Duration  // for one whole command, including the wait for it
	Data             time.Duration  // for each further 1024 octets of a message
	Transaction      time.Duration  // from MAIL to the end of the data
	Write            time.Duration  // for the client to take replies
	Handshake        time.Duration  // of TLS; and for the PROXY header
	SpoolMemory      int64          // octets of one message held in memory
	SpoolMemoryTotal int64          // octets of all messages held in memory; the rest goes to files
	SpoolDisk        int64          // octets of all those files
	Header           message.Limits // of the header of a message
}

// Limit declares one limit: all that the configuration, the log and the metrics need to know about it.
type Limit struct {
	// Name is the key in the section submission.limits, the value of limit in the log, and the label of the metric.
	Name string
	// Value points to the field of Limits: a *int, *int64 or *time.Duration.
	Value any
	// Default, Least and Most are in units of *Value.
	Default, Least, Most int64
	// Octets means that *Value is a size, and not a number of things.
	Octets bool
	// Uncounted means that the limit refuses no client, so that there is no metric.
	Uncounted bool
}

// Names of limits, where the code that enforces them reports a hit. Those of the header are in package message.
const (
	limitConnections      = "connections"
	limitConnectionsPerIP = "connections_per_ip"
	limitUnusedPerIP      = "unused_per_ip"
	limitCommands         = "commands"
	limitErrors           = "errors"
	limitAuthFailures     = "auth_failures"
	limitMessages         = "messages"
	limitMessageBytes     = "message_bytes"
	limitRecipients       = "recipients"
	limitCommandLine      = "command_line"
	limitLine             = "line"
	limitChunks           = "chunks"
	limitIdle             = "idle"
	limitData             = "data"
	limitTransaction      = "transaction"
	limitWrite            = "write"
	limitHandshake        = "handshake"
	limitMemory           = "memory"
	limitDisk             = "disk"
)

// Declared lists all limits that can be configured. To add a limit, add a field to Limits, a line here, and the code that
// enforces it and calls session.hit.
func (l *Limits) Declared() []Limit {
	const (
		million = 1_000_000
		mib     = 1 << 20
		gib     = 1 << 30
		second  = int64(time.Second)
		minute  = int64(time.Minute)
		hour    = int64(time.Hour)
	)
	header := message.Limits{}.OrDefault()
	return []Limit{
		{Name: limitMessageBytes, Value: &l.MessageBytes, Default: 25 * mib, Least: 1 << 10, Most: 4 * gib, Octets: true},
		{Name: limitRecipients, Value: &l.Recipients, Default: 100, Least: 1, Most: 100_000},
		{Name: limitConnections, Value: &l.Connections, Default: 1000, Least: 1, Most: million},
		{Name: limitConnectionsPerIP, Value: &l.ConnectionsPerIP, Default: 50, Least: 1, Most: million},
		{Name: limitUnusedPerIP, Value: &l.UnusedPerIP, Default: 50, Least: 1, Most: million},
		{Name: limitCommands, Value: &l.Commands, Default: 100, Least: 1, Most: million},
		{Name: limitErrors, Value: &l.Errors, Default: 20, Least: 1, Most: 10_000},
		{Name: limitAuthFailures, Value: &l.AuthFailures, Default: 3, Least: 1, Most: 1000},
		{Name: limitMessages, Value: &l.Messages, Default: 10_000, Least: 1, Most: 1000 * million},
		{Name: message.LimitBytes, Value: &l.Header.Bytes, Default: int64(header.Bytes), Least: 1 << 10, Most: 64 * mib, Octets: true},
		{Name: message.LimitFields, Value: &l.Header.Fields, Default: int64(header.Fields), Least: 1, Most: 100_000},
		{Name: message.LimitFieldBytes, Value: &l.Header.FieldBytes, Default: int64(header.FieldBytes), Least: 1 << 10, Most: 64 * mib, Octets: true},
		// RFC 5321 §4.5.3.1.4 has 512; SMTPUTF8, DSN and long addresses add to it (RFC 6531 §3.4, RFC 3461).
		{Name: limitCommandLine, Value: &l.CommandLine, Default: 2048, Least: 512, Most: 64 << 10, Octets: true},
		{Name: limitLine, Value: &l.Line, Default: mib, Least: 1000, Most: 4 * gib, Octets: true},
		{Name: limitChunks, Value: &l.Chunks, Default: 1000, Least: 1, Most: million},
		{Name: limitIdle, Value: &l.Idle, Default: 5 * minute, Least: second, Most: hour},
		{Name: limitData, Value: &l.Data, Default: 3 * minute, Least: second, Most: hour},
		{Name: limitTransaction, Value: &l.Transaction, Default: 2 * hour, Least: second, Most: 24 * hour},
		{Name: limitWrite, Value: &l.Write, Default: minute, Least: second, Most: hour},
		{Name: limitHandshake, Value: &l.Handshake, Default: 30 * second, Least: second, Most: 10 * minute},
		{Name: "message_memory", Value: &l.SpoolMemory, Default: 128 << 10, Least: 4 << 10, Most: gib, Octets: true, Uncounted: true},
		{Name: limitMemory, Value: &l.SpoolMemoryTotal, Default: 16 * mib, Least: 64 << 10, Most: 16 << 40, Octets: true},
		{Name: limitDisk, Value: &l.SpoolDisk, Default: 2 * gib, Least: 64 << 10, Most: 16 << 40, Octets: true},
	}
}

// promise is the parameter of LIMITS in EHLO, with a space before it (RFC 9422 §4): accepted MAIL commands of a connection, and RCPT
// commands of a transaction. There is no limit of domains. A policy may have limits of its own, which depend on the message.
func (l *Limits) promise() string {
	return " MAILMAX=" + strconv.Itoa(l.Messages) + " RCPTMAX=" + strconv.Itoa(l.Recipients)
}

// countedLimits names all limits that have a metric.
func countedLimits() []string {
	names := []string{limit.Descriptors}
	for _, d := range new(Limits).Declared() {
		if !d.Uncounted {
			names = append(names, d.Name)
		}
	}
	return names
}

// OrDefault returns l with defaults in its zero fields.
func (l Limits) OrDefault() Limits {
	for _, d := range l.Declared() {
		switch v := d.Value.(type) {
		case *int:
			if *v == 0 {
				*v = int(d.Default)
			}
		case *int64:
			if *v == 0 {
				*v = d.Default
			}
		case *time.Duration:
			if *v == 0 {
				*v = time.Duration(d.Default)
			}
		}
	}
	if l.AuthDelay == 0 {
		l.AuthDelay = time.Second
	}
	l.Header = l.Header.OrDefault()
	return l
}

// value is the value of the limit of that name, for the log.
func (l Limits) value(name string) any {
	for _, d := range l.Declared() {
		if d.Name != name {
			continue
		}
		switch v := d.Value.(type) {
		case *int:
			return *v
		case *int64:
			return *v
		case *time.Duration:
			return *v
		}
	}
	return nil
}

// endless is how much is read of a message that is too large, so that the client can read the reply after its data.
func (l Limits) endless() int64 { return 4*l.MessageBytes + 64<<20 }

// connections is the table of open connections. Its zero value is empty.
type connections struct {
	mu      sync.Mutex
	open    map[*wire.Conn]context.CancelFunc
	network map[netip.Prefix]fromNetwork
}

// fromNetwork counts the connections from one network.
type fromNetwork struct {
	open   int
	unused int // that ended lately without a login or a message
}

// unusedTime is for how long, on average, a connection counts as unused after its end. The time of each is drawn at random, so that
// clients that come back at once do not come all together.
const unusedTime = time.Second

// add adds a connection, unless there are limit already.
func (t *connections) add(c *wire.Conn, cancel context.CancelFunc, limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= limit {
		return false
	}
	if t.open == nil {
		t.open = map[*wire.Conn]context.CancelFunc{}
	}
	t.open[c] = cancel
	return true
}

// addFrom counts a connection from a network. If there are too many already, it returns the name of the limit instead. A client
// without an IP address, on a unix socket, has no network and is not counted.
func (t *connections) addFrom(network netip.Prefix, limits *Limits) (limit string) {
	if !network.IsValid() {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.network[network]
	switch {
	case n.open >= limits.ConnectionsPerIP:
		return limitConnectionsPerIP
	case n.unused >= limits.UnusedPerIP:
		return limitUnusedPerIP
	}
	t.count(network, 1, 0)
	return ""
}

// remove removes a connection. network is what addFrom has counted it under; zero: nothing. unused says that the client has neither
// logged in nor sent a message.
func (t *connections) remove(c *wire.Conn, network netip.Prefix, unused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	if !network.IsValid() {
		return
	}
	if !unused {
		t.count(network, -1, 0)
		return
	}
	t.count(network, -1, 1)
	time.AfterFunc(unusedTime/2+rand.N(unusedTime), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.count(network, 0, -1)
	})
}

// count adds to the counts of a network; t.mu is held.
func (t *connections) count(network netip.Prefix, open, unused int) {
	if t.network == nil {
		t.network = map[netip.Prefix]fromNetwork{}
	}
	n := t.network[network]
	n.open += open
	n.unused += unused
	if t.network[network] = n; n == (fromNetwork{}) {
		delete(t.network, network)
	}
}

// all lists the open connections.
func (t *connections) all() []*wire.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*wire.Conn, 0, len(t.open))
	for c := range t.open {
		list = append(list, c)
	}
	return list
}

// cut cancels what is done for the open connections, and closes their sockets.
func (t *connections) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c, cancel := range t.open {
		cancel()
		c.CloseSocket()
	}
}
