package postern.message

import data.postern.lib.senders
import data.postern.lib.settings

# Sender names who sent a message that another person wrote (RFC 5322 section 3.6.2, RFC 6409 section 8.1):
#
#   the authors are          without Sender         Sender belongs to the login          Sender is another user's
#   the login's, one         unchanged              unchanged                            replaced
#   the login's, several     added                  unchanged                            replaced
#   on behalf of             added                  unchanged                            replaced
#
# With settings.sender "refuse", the message is rejected instead of Sender replaced; "leave" is the same, and adds no
# Sender. A Sender that does not belong to the login is never relayed.

# One edit adds a missing Sender, replaces one, and removes further Sender fields.
edit contains {"op": "replace_header", "name": "Sender", "value": senders.primary} if _sender_replaced

reject contains {
	"rule": "message.header-sender-not-yours",
	"code": 550,
	"status": "5.7.1",
	"message": sprintf(
		"%s may not send as %s, which is in the Sender field; remove the field, or put your own address there",
		[senders.login, mailbox.address],
	),
} if {
	some mailbox in input.message.sender
	not _signs(mailbox)
	not _resent
	settings.sender != "fix"
	input.auth.login
}

reject contains {
	"rule": "message.no-own-address",
	"code": 550,
	"status": "5.7.1",
	"message": sprintf(
		"This message needs a Sender field, and %s has no address of its own to put there; ask the postmaster for one",
		[senders.login],
	),
} if {
	_sender_replaced
	not senders.primary
}

# Whether the login may send as an address.
_signs(mailbox) if senders.right(mailbox.key, mailbox.domain).as == "send-as"

_sender_foreign if {
	some mailbox in input.message.sender
	not _signs(mailbox)
}

_sender_needed if {
	count(input.message.from) > 1
	input.message.sender == []
	count({author.key | some author in input.message.from}) > 1
}

_sender_needed if {
	input.message.sender == []
	some right in _rights
	right.as == "on-behalf"
}

# A Sender that cannot be read, or not in one way, is nobody's.
_sender_foreign if {
	input.message.ambiguous[0]
	some ambiguity in input.message.ambiguous
	ambiguity.field == "sender"
	ambiguity.kind in _no_sender
}

_no_sender := {
	"unparsable-sender", "empty-sender", "group-in-sender", "several-in-sender", "duplicate-sender", "folded-in-sender",
	"unknown-charset-in-sender", "undecodable-name-in-sender", "malformed-encoded-word-in-sender", "disguised-address-in-display-name",
}

_sender_replaced if {
	_sender_foreign
	not _resent
	settings.sender == "fix"
	input.auth.login
}

_sender_replaced if {
	_sender_needed
	not _resent
	settings.sender != "leave"
	input.auth.login
}

_sender_settled if input.message.sender == []

_sender_settled if {
	every mailbox in input.message.sender {
		_signs(mailbox)
	}
}

_sender_settled if {
	_sender_replaced
	senders.primary
}
