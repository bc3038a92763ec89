// Package message holds what both front ends and the engine agree on about a mail message: its ordered header
// block, the edits a decision may make, strict addresses, SMTP replies, and the spooled body.
//
// Everything here is strict, bounded and without goroutines: a value that exists has been checked where it was
// constructed, and a header that nobody edited leaves byte for byte as it came.
package message

// Mailbox is one address as RFC 5321 §4.1.2 and RFC 5322 §3.4 have it.
// Domain is empty for an unqualified address (RFC 6409 §4.2), which only a submission may carry.
type Mailbox struct {
	Name   string // display name, decoded to UTF-8 (RFC 2047), cleaned of control characters; may be empty
	Local  string // local part without quoting: "a b" for <"a b"@example.com>
	Domain string // as written, A-labels and ASCII letters in lower case; or an address literal with its brackets
}

// Path is a reverse-path or forward-path (RFC 5321 §4.1.2). The zero value is not valid; Null is MAIL FROM:<>.
type Path struct {
	Mailbox
	Null bool
}

// Params are ESMTP parameters: upper-case keyword to value as it came (xtext not decoded; "" where there was none).
type Params map[string]string
