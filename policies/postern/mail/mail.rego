# METADATA
# scope: package
# title: MAIL FROM
# description: Who may submit, and with which envelope sender.
# custom:
#   rfc: RFC 6409 sections 4.3, 5.1 and 6.1
package postern.mail

import data.postern.lib.senders
import data.postern.lib.settings

# METADATA
# title: Reasons to accept
# description: The right by which the login may use the envelope sender. Without a right, MAIL is rejected.
allow contains _right.why if input.auth.login

# The null sender is for notifications. The message stage still checks the originators in the header.
allow contains "null sender" if {
	input.envelope.from.null == true
	input.auth.login
	settings.null_sender
}

# If the login is not known yet, the message stage decides.
allow contains "decided at the message" if {
	"auth" in input.unknown # indexed, so most transactions skip this rule
	not input.auth.login
	senders.who == "unknown"
}

allow contains "not a submission" if {
	data.settings.require_auth == false # the same as settings.require_auth, but indexed
	not input.auth.login
	senders.who == "nobody"
	settings.require_auth == false
}

# METADATA
# title: Reasons to reject
# description: Why the client may not submit with this envelope sender, and what to do about it.
reject contains {
	"rule": "mail.authentication-required",
	"code": 530,
	"status": "5.7.0",
	"message": "Authentication required",
} if {
	not input.auth.login
	senders.who == "nobody"
	settings.require_auth
}

reject contains {
	"rule": "mail.null-sender",
	"code": 550,
	"status": "5.7.1",
	"message": "The empty sender is not accepted here; send with one of your own addresses",
} if {
	input.envelope.from.null == true
	input.auth.login
	settings.null_sender == false
}

reject contains {
	"rule": "mail.right-ended",
	"code": 550,
	"status": "5.7.1",
	"message": sprintf(
		"The right of %s to send as %s has ended; ask the postmaster to renew it",
		[senders.login, input.envelope.from.address],
	),
} if {
	_without_right
	_ended
}

reject contains {
	"rule": "mail.sender-not-yours",
	"code": 550,
	"status": "5.7.1",
	"message": sprintf(
		"%s may not send as %s; use one of your own addresses, or ask the postmaster for the right",
		[senders.login, input.envelope.from.address],
	),
} if {
	_without_right
	not _ended
}

reject contains {
	"rule": "mail.sender-unreadable",
	"code": 553,
	"status": "5.1.7",
	"message": "The sender address cannot be read; use one of your own addresses",
} if {
	input.envelope.from.unreadable
	input.auth.login
}

reject contains {
	"rule": "mail.sender-without-domain",
	"code": 553,
	"status": "5.1.7",
	"message": sprintf(
		"The sender address %s has no domain; write it in full, as in %s@example.com",
		[input.envelope.from.address, input.envelope.from.address],
	),
} if {
	input.envelope.from.domain == ""
	input.envelope.from.null == false
	not input.envelope.from.unreadable
	input.auth.login
	settings.domain == ""
}

reject contains {
	"rule": "mail.sender-address-literal",
	"code": 553,
	"status": "5.1.7",
	"message": "The sender address has a network address in place of a domain; use one with a domain name",
} if {
	startswith(input.envelope.from.domain, "[")
	input.auth.login
	settings.allow_address_literals == false
}

reject contains {
	"rule": "mail.sender-dotless-domain",
	"code": 553,
	"status": "5.1.7",
	"message": sprintf("The domain of the sender address %s is not complete", [input.envelope.from.address]),
} if {
	domain := input.envelope.from.domain
	not contains(domain, ".")
	not startswith(domain, "[")
	domain != ""
	domain != settings.domain
	input.auth.login
	settings.allow_dotless_domains == false
}

# The right by which the login may use the envelope sender, undefined if there is none.
_right := senders.right(input.envelope.from.key, input.envelope.from.domain)

_without_right if {
	input.auth.login
	not _right
	senders.judged(input.envelope.from.key, input.envelope.from.domain)
}

_ended if senders.ended(input.envelope.from.key, input.envelope.from.domain)
