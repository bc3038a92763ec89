# METADATA
# scope: package
# title: The message
# description: |
#   Whose message it is, and whether every mail program reads that the same way. Every originator in the header must
#   belong to the login. The repairs are in repair.rego, the rules about Sender in sender.rego.
# custom:
#   rfc: RFC 6409 sections 6.1 and 8, RFC 5322 section 3.6
package postern.message

import data.postern.lib.senders
import data.postern.lib.settings

# METADATA
# title: Reasons to accept
# description: The rights by which the login may use the authors' addresses. Without them, the message is rejected.
allow contains why if {
	input.auth.login
	_envelope_yours
	_authors_yours
	_sender_settled
	some right in _rights
	why := right.why
}

allow contains "made on the mail host" if {
	"auth" in input.unknown # indexed, so most transactions skip this rule
	not input.auth.login
	senders.who == "unknown"
	settings.allow_local
}

allow contains "not a submission" if {
	data.settings.require_auth == false # the same as settings.require_auth, but indexed
	not input.auth.login
	senders.who == "nobody"
	settings.require_auth == false
}

# METADATA
# title: Reasons to reject
# description: What does not belong to the login or is ambiguous, and what to do about it.
reject contains {
	"rule": "message.authentication-required",
	"code": 530,
	"status": "5.7.0",
	"message": "Authentication required",
} if {
	not input.auth.login
	senders.who == "nobody"
	settings.require_auth
}

reject contains {
	"rule": "message.sender-unknown",
	"code": 550,
	"status": "5.7.1",
	"message": "It cannot be told who sends this message; submit it with authentication",
} if {
	"auth" in input.unknown
	not input.auth.login
	senders.who == "unknown"
	settings.allow_local == false
}

reject contains _refusal("message.sender-not-yours", input.envelope.from, "the envelope") if {
	not _envelope_yours
	input.envelope.from.null == false
	input.auth.login
}

reject contains _refusal("message.from-not-yours", author, "the From field") if {
	not _rights_complete
	not _resent
	some author in input.message.from
	not senders.right(author.key, author.domain)
	input.auth.login
}

reject contains _refusal("message.resent-not-yours", resender, "a Resent field") if {
	not _resent
	some resender in input.message.resent
	not senders.right(resender.key, resender.domain)
	input.auth.login
}

# Whether the rules for submission apply.
_submission if input.auth.login

_submission if {
	not input.auth.login
	senders.who == "unknown"
	settings.allow_local
}

_authors_yours if {
	count(input.message.from) > 0
	_rights_complete
	_resenders_yours
}

# The rights by which the login may use the authors' addresses, one for each author.
_rights := [right |
	some author in input.message.from
	right := senders.right(author.key, author.domain)
]

_rights_complete if count(_rights) == count(input.message.from)

_resenders_yours if input.message.resent == []

_resenders_yours if {
	every resender in input.message.resent {
		senders.right(resender.key, resender.domain)
	}
}

_envelope_yours if senders.right(input.envelope.from.key, input.envelope.from.domain)

_envelope_yours if {
	input.envelope.from.null == true
	settings.null_sender
}

_refusal(rule, mailbox, where) := {
	"rule": rule,
	"code": 550,
	"status": "5.7.1",
	"message": sprintf(
		"%s may not send as %s, which is in %s; use one of your own addresses, or ask the postmaster for the right",
		[senders.login, mailbox.address, where],
	),
} if {
	senders.judged(mailbox.key, mailbox.domain)
	not senders.ended(mailbox.key, mailbox.domain)
} else := {
	"rule": "message.right-ended",
	"code": 550,
	"status": "5.7.1",
	"message": sprintf(
		"The right of %s to send as %s, which is in %s, has ended; ask the postmaster to renew it",
		[senders.login, mailbox.address, where],
	),
} if {
	senders.judged(mailbox.key, mailbox.domain)
}
