package config

import (
	"time"

	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd"
)

// Bounds of the values of limits.
const (
	maxCount   = 1_000_000
	maxOctets  = 16 << 40
	maxHeader  = 64 << 20
	maxAwaited = time.Hour
)

// count reads a number from 1 to most.
func count(to *int, most int) func(yamldoc.Node) {
	return func(n yamldoc.Node) { set(to)(n.Int(1, most)) }
}

// octets reads a size in bytes.
func octets[T int | int64](to *T, least, most int64) func(yamldoc.Node) {
	return func(n yamldoc.Node) {
		if v, ok := n.Size(least, most); ok {
			*to = T(v)
		}
	}
}

// during reads a duration.
func during(to *time.Duration, least, most time.Duration) func(yamldoc.Node) {
	return func(n yamldoc.Node) { set(to)(n.Duration(least, most)) }
}

// limits reads the limits that package smtpd declares.
func (r *reader) limits(n yamldoc.Node, l *smtpd.Limits) {
	keys := yamldoc.Keys{}
	for _, d := range l.Declared() {
		switch to := d.Value.(type) {
		case *int:
			keys[d.Name] = number(to, d)
		case *int64:
			keys[d.Name] = number(to, d)
		case *time.Duration:
			keys[d.Name] = during(to, time.Duration(d.Least), time.Duration(d.Most))
		}
	}
	r.section(n, keys)
}

// number reads a size or a count, as its declaration says.
func number[T int | int64](to *T, d smtpd.Limit) func(yamldoc.Node) {
	if d.Octets {
		return octets(to, d.Least, d.Most)
	}
	return func(n yamldoc.Node) {
		if v, ok := n.Int(int(d.Least), int(d.Most)); ok {
			*to = T(v)
		}
	}
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
