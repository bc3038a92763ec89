// Package message has the types of a mail message that both front ends and the engine share: the ordered header block, the
// edits of a decision, strict addresses, SMTP replies, and the spooled body.
//
// Everything is strict and bounded. Values are checked where they are constructed, so that no unchecked value exists. A header
// without edits is written byte for byte as it was read. The package starts no goroutines.
package message

// Mailbox is one address (RFC 5321 §4.1.2, RFC 5322 §3.4).
// Domain is empty for an unqualified address (RFC 6409 §4.2), which only a submission may carry.
type Mailbox struct {
	Name   string // display name, decoded to UTF-8 (RFC 2047), cleaned of control characters; may be empty
	Local  string // local part without quoting: "a b" for <"a b"@example.com>
	Domain string // in A-labels and lower case; or an address literal with its brackets
}

// Path is a reverse-path or forward-path (RFC 5321 §4.1.2). The zero value is not valid; Null is MAIL FROM:<>.
type Path struct {
	Mailbox
	Null bool
	// Unreadable is an address that another mail server has taken and that cannot be read, as it came; the Mailbox is zero then.
	Unreadable string
}

// Params are ESMTP parameters: the keyword in upper case, and the value as it was received (xtext is not decoded; "" where
// there was none).
type Params map[string]string
