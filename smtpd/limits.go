package smtpd

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
)

// Limits bound what clients may cost. Zero fields take the defaults in brackets.
type Limits struct {
	MessageBytes     int64          // one message as it was sent, end of data excluded [25 MiB]
	Recipients       int            // of one message [100]; ten times as many RCPT commands between two messages
	Connections      int            // in all [1000]
	ConnectionsPerIP int            // from one IPv4 address or IPv6 /64 [50]
	Commands         int            // that lead nowhere, between two messages on one connection [100]
	Errors           int            // commands wrong in form or order on one connection [20]
	Messages         int            // on one connection [10000]
	AuthFailures     int            // on one connection [3]
	AuthDelay        time.Duration  // after a failed try, doubled after each further one, with jitter [1 s]; negative: none
	CommandLine      int            // octets of a command with its CRLF, AUTH apart [2048]
	Line             int            // octets of a line of a message with its CRLF [1 MiB]
	Chunks           int            // BDAT commands of one message, beyond one a KiB of it [1000]
	Idle             time.Duration  // for one whole command, waiting for it included [5 min]
	Data             time.Duration  // for each further 1024 octets of a message at least [3 min]
	Transaction      time.Duration  // from MAIL to the end of the data [2 h]
	Write            time.Duration  // for the client to take replies [1 min]
	Handshake        time.Duration  // of TLS, and for the PROXY header [30 s]
	SpoolMemory      int64          // octets of one message held in memory [128 KiB]
	SpoolMemoryTotal int64          // of all messages together; what does not fit goes to files [16 MiB]
	SpoolDisk        int64          // octets of all those files together [2 GiB]
	Header           message.Limits // [512 KiB, 1000 fields, 64 KiB each]
}

// The limits by the names that the log and the metrics have for them: those of the configuration. What else can run short is
// limit.Descriptors.
const (
	limitConnections      = "connections"
	limitConnectionsPerIP = "connections_per_ip"
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

// limitNames are all of them.
func limitNames() []string {
	return []string{
		limitConnections, limitConnectionsPerIP, limitCommands, limitErrors, limitAuthFailures, limitMessages, limitMessageBytes, limitRecipients,
		message.LimitBytes, message.LimitFields, message.LimitFieldBytes, limitCommandLine, limitLine, limitChunks,
		limitIdle, limitData, limitTransaction, limitWrite, limitHandshake, limitMemory, limitDisk, limit.Descriptors,
	}
}

// OrDefault fills in the defaults where a field is zero.
func (l Limits) OrDefault() Limits {
	l.MessageBytes = cmp.Or(l.MessageBytes, 25<<20)
	l.Recipients = cmp.Or(l.Recipients, 100)
	l.Connections = cmp.Or(l.Connections, 1000)
	l.ConnectionsPerIP = cmp.Or(l.ConnectionsPerIP, 50)
	l.Commands = cmp.Or(l.Commands, 100)
	l.Errors = cmp.Or(l.Errors, 20)
	l.Messages = cmp.Or(l.Messages, 10_000)
	l.AuthFailures = cmp.Or(l.AuthFailures, 3)
	l.AuthDelay = cmp.Or(l.AuthDelay, time.Second)
	l.CommandLine = cmp.Or(l.CommandLine, 2048) // RFC 5321 §4.5.3.1.4 has 512; SMTPUTF8, DSN and long addresses add to it (RFC 6531 §3.4, RFC 3461)
	l.Line = cmp.Or(l.Line, 1<<20)
	l.Chunks = cmp.Or(l.Chunks, 1000)
	l.Idle = cmp.Or(l.Idle, 5*time.Minute)
	l.Data = cmp.Or(l.Data, 3*time.Minute)
	l.Transaction = cmp.Or(l.Transaction, 2*time.Hour)
	l.Write = cmp.Or(l.Write, time.Minute)
	l.Handshake = cmp.Or(l.Handshake, 30*time.Second)
	l.SpoolMemory = cmp.Or(l.SpoolMemory, 128<<10)
	l.SpoolMemoryTotal = cmp.Or(l.SpoolMemoryTotal, 16<<20)
	l.SpoolDisk = cmp.Or(l.SpoolDisk, 2<<30)
	l.Header = l.Header.OrDefault()
	return l
}

// endless is how much of a message that is too large is read, so that the client hears of it where it listens.
func (l Limits) endless() int64 { return 4*l.MessageBytes + 64<<20 }

// met counts and logs that this connection has met a limit.
func (s *session) met(name string, value any) {
	attrs := []any{"client", s.client.IP}
	if s.auth != nil {
		attrs = append(attrs, "login", s.auth.Login)
	}
	s.srv.limits.Met(s.log, name, value, attrs...)
}

// late is met for a time that has run out while a command or a message was waited for.
func (s *session) late(waiting string, value time.Duration) {
	if t := s.tx; t != nil && !time.Now().Before(t.until) {
		waiting, value = limitTransaction, s.limits.Transaction
	}
	s.met(waiting, value)
}

// door counts who is inside. Its zero value is empty.
type door struct {
	mu    sync.Mutex
	conns map[*session]struct{}
	from  map[netip.Prefix]int
}

// enter lets a connection in, unless there are limit already.
func (d *door) enter(s *session, limit int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.conns) >= limit {
		return false
	}
	if d.conns == nil {
		d.conns = map[*session]struct{}{}
	}
	d.conns[s] = struct{}{}
	return true
}

// count adds a connection to those of its network, unless there are limit already. leave takes it off again. A client without
// an IP address (a unix socket) has no network, and all such clients are not one.
func (d *door) count(s *session, network netip.Prefix, limit int) bool {
	if !network.IsValid() {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from[network] >= limit {
		return false
	}
	if d.from == nil {
		d.from = map[netip.Prefix]int{}
	}
	d.from[network]++
	s.network = network
	return true
}

// leave forgets a connection.
func (d *door) leave(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, s)
	if !s.network.IsValid() {
		return
	}
	if d.from[s.network]--; d.from[s.network] <= 0 {
		delete(d.from, s.network)
	}
	s.network = netip.Prefix{}
}

// inside are all connections.
func (d *door) inside() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]*session, 0, len(d.conns))
	for s := range d.conns {
		list = append(list, s)
	}
	return list
}
