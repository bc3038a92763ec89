package config

import (
	"time"

	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd"
)

// Bounds of what limits may be.
const (
	maxCount   = 1_000_000
	maxOctets  = 16 << 40
	maxHeader  = 64 << 20
	maxAwaited = time.Hour
)

// count reads a number from 1 on.
func count(to *int, most int) func(yamldoc.Node) {
	return func(n yamldoc.Node) { set(to)(n.Int(1, most)) }
}

// octets reads a size.
func octets[T int | int64](to *T, least, most int64) func(yamldoc.Node) {
	return func(n yamldoc.Node) {
		if v, ok := n.Size(least, most); ok {
			*to = T(v)
		}
	}
}

// during reads a time.
func during(to *time.Duration, least, most time.Duration) func(yamldoc.Node) {
	return func(n yamldoc.Node) { set(to)(n.Duration(least, most)) }
}

func (r *reader) limits(n yamldoc.Node, l *smtpd.Limits) {
	r.section(n, yamldoc.Keys{
		"message_bytes":      octets(&l.MessageBytes, 1<<10, 4<<30),
		"recipients":         count(&l.Recipients, 100_000),
		"connections":        count(&l.Connections, maxCount),
		"connections_per_ip": count(&l.ConnectionsPerIP, maxCount),
		"commands":           count(&l.Commands, maxCount),
		"errors":             count(&l.Errors, 10_000),
		"auth_failures":      count(&l.AuthFailures, 1000),
		"messages":           count(&l.Messages, 1_000_000_000),
		"header_bytes":       octets(&l.Header.Bytes, 1<<10, maxHeader),
		"header_fields":      count(&l.Header.Fields, 100_000),
		"header_field_bytes": octets(&l.Header.FieldBytes, 1<<10, maxHeader),
		"command_line":       octets(&l.CommandLine, 512, 64<<10),
		"line":               octets(&l.Line, 1000, 4<<30),
		"chunks":             count(&l.Chunks, maxCount),
		"idle":               during(&l.Idle, time.Second, time.Hour),
		"data":               during(&l.Data, time.Second, time.Hour),
		"transaction":        during(&l.Transaction, time.Second, 24*time.Hour),
		"write":              during(&l.Write, time.Second, time.Hour),
		"handshake":          during(&l.Handshake, time.Second, 10*time.Minute),
		"message_memory":     octets(&l.SpoolMemory, 4<<10, 1<<30),
		"memory":             octets(&l.SpoolMemoryTotal, 64<<10, maxOctets),
		"disk":               octets(&l.SpoolDisk, 64<<10, maxOctets),
	})
}

func (r *reader) milterLimits(n yamldoc.Node) {
	l := &r.c.Milter.Limits
	r.section(n, yamldoc.Keys{
		"connections":   count(&l.Connections, maxCount),
		"recipients":    count(&l.Recipients, maxCount),
		"header_bytes":  octets(&l.HeaderBytes, 1<<10, maxHeader),
		"header_fields": count(&l.HeaderFields, 100_000),
		"memory":        octets(&l.Memory, 64<<10, maxOctets),
		"disk":          octets(&l.Disk, 64<<10, maxOctets),
		"idle":          during(&l.Idle, time.Minute, 24*time.Hour),
		"frame":         during(&l.Frame, time.Second, 10*time.Minute),
	})
}

func (r *reader) timeouts(n yamldoc.Node) {
	t := &r.c.Relay.Timeouts
	r.section(n, yamldoc.Keys{
		"connect":  during(&t.Connect, 100*time.Millisecond, 5*time.Minute),
		"greeting": during(&t.Greeting, time.Second, maxAwaited),
		"command":  during(&t.Command, time.Second, maxAwaited),
		"block":    during(&t.Block, time.Second, maxAwaited),
		"final":    during(&t.Final, time.Second, maxAwaited),
	})
}
