package config

import (
	"fmt"
	"time"
)

// limits finds limits of the submission server that contradict each other.
func (v *validator) limits() {
	l := v.c.Submission.Limits
	const section = "submission.limits."
	if l.ConnectionsPerIP > l.Connections && v.c.Written(section+"connections_per_ip") {
		v.warn(section+"connections_per_ip", fmt.Sprintf("%d is more than connections: %d", l.ConnectionsPerIP, l.Connections), "write less, because one address could use all of them")
	}
	if l.SpoolDisk < l.MessageBytes {
		v.add(section+"disk", fmt.Sprintf("%d bytes are less than one message of message_bytes: %d", l.SpoolDisk, l.MessageBytes), "write more, or a smaller message_bytes")
	}
	if l.SpoolMemory > l.SpoolMemoryTotal {
		v.add(section+"message_memory", fmt.Sprintf("%d bytes for one message are more than memory, which is for all: %d", l.SpoolMemory, l.SpoolMemoryTotal), "write less, or more memory")
	}
	if l.Header.FieldBytes > l.Header.Bytes && v.c.Written(section+"header_field_bytes") {
		v.add(section+"header_field_bytes", fmt.Sprintf("%d bytes for one field are more than header_bytes, which is for all: %d", l.Header.FieldBytes, l.Header.Bytes), "write less, or more header_bytes")
	}
}

// extensions finds extensions that need one another.
func (v *validator) extensions() {
	x := v.c.Submission.Extensions
	if eightBit, set := x["8BITMIME"]; set && !eightBit && x["SMTPUTF8"] {
		v.add("submission.extensions.smtputf8", "SMTPUTF8 cannot be offered without 8BITMIME (RFC 6531 section 3.1)", "remove 8bitmime: off, or smtputf8: on")
	}
}

// timeouts warns about time-outs after which the client has given up. Clients wait for 5 minutes, and for 10 after their data (RFC 5321 section
// 4.5.3.2).
func (v *validator) timeouts() {
	t := v.c.Relay.Timeouts
	for _, x := range []struct {
		key   string
		time  time.Duration
		waits time.Duration
	}{{"greeting", t.Greeting, 5 * time.Minute}, {"command", t.Command, 5 * time.Minute}, {"block", t.Block, 5 * time.Minute}, {"final", t.Final, 10 * time.Minute}} {
		if x.time > x.waits {
			v.warn("relay.timeouts."+x.key, fmt.Sprintf("mail programs give up after %v, and send again a message that may have been delivered", x.waits), fmt.Sprintf("write less than %v", x.waits))
		}
	}
}
