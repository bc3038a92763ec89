package postern.message

import data.postern.lib.senders
import data.postern.lib.settings

# METADATA
# title: Ambiguous headers
# description: |
#   What two programs could read differently is refused where it says who wrote the message or how to read it. Fields that authorise nothing
#   are read leniently.
# custom:
#   rfc: RFC 5322 sections 3.6 and 4.4

# METADATA
# title: Reasons to reject
# description: What is ambiguous in a field that says who wrote the message, and what to do about it.
reject contains {
	"rule": "message.ambiguous",
	"code": 550,
	"status": "5.6.0",
	"message": ambiguity.text,
} if {
	some ambiguity in input.message.ambiguous
	not _tolerated(ambiguity)
	not _gone[ambiguity.field] # the field is removed or replaced
	_submission
}

reject contains {
	"rule": "message.address-without-domain",
	"code": 550,
	"status": "5.6.0",
	"message": sprintf(
		"An address in the %s field has no domain; write it in full, as in name@example.com",
		[field.name],
	),
} if {
	some field in input.message.unqualified
	not _gone[lower(field.name)]
	not _kept[lower(field.name)]
	not _left_alone[lower(field.name)]
	settings.domain == ""
	_submission
}

# METADATA
# title: Notes
# description: Which fields of recipients could not be read and were relayed as they came, or removed.
note contains {"rule": "message.unreadable", "field": field.name, "text": field.text} if {
	some field in input.message.unreadable
	_left_alone[lower(field.name)]
	_submission
}

# Fields that say who gets the message or an answer, and authorise nothing.
_recipient_fields := {"to", "cc", "bcc", "reply-to", "resent-to", "resent-cc", "resent-bcc", "resent-reply-to"}

_left_alone contains name if {
	settings.recipient_fields == "lenient"
	some name in _recipient_fields
}

_lenient_kinds := {sprintf("unparsable-%s", [name]) | some name in _recipient_fields} | {"duplicate-to", "duplicate-cc", "duplicate-bcc", "duplicate-reply-to", "duplicate-subject", "duplicate-in-reply-to", "duplicate-references"}

_tolerated(ambiguity) if {
	settings.recipient_fields == "lenient"
	_lenient_kinds[ambiguity.kind]
}

# Those who wrote a message that is sent again may be several, and their names are theirs.
_tolerated(ambiguity) if {
	_kept[ambiguity.field]
	ambiguity.kind in {"several-authors-no-sender", "address-in-display-name", "via-address-in-display-name"}
}

# Several authors need a Sender, which is added.
_tolerated(ambiguity) if {
	ambiguity.kind == "several-authors-no-sender"
	_sender_replaced
	senders.primary
}

_tolerated(ambiguity) if settings.ambiguous_allow[ambiguity.kind]

_tolerated(ambiguity) if {
	ambiguity.mended
	settings.canonical_originators == "rewrite"
}

# An address that everybody may take for the login's: one of a domain of the login, or of a domain that the operator names.
_tolerated(ambiguity) if {
	ambiguity.kind == "address-in-display-name"
	settings.ambiguous_allow["own-address-in-display-name"]
	_familiar(split(ambiguity.address, "@")[1])
}

_familiar(domain) if domain in settings.display_name_domains

_familiar(domain) if {
	some key, _ in senders.grants
	endswith(key, concat("", ["@", domain]))
}
