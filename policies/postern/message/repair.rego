package postern.message

import data.postern.lib.settings

# METADATA
# title: Repairs
# description: |
#   What is added to a message before it is relayed: Date, Message-ID, a destination field and missing domains. A Date that
#   cannot be read and an empty Message-ID are replaced. Bcc is removed.
# custom:
#   rfc: RFC 6409 sections 8.1 to 8.3 and 5.1, RFC 5322 sections 3.6.1 to 3.6.4
edit contains {"op": "add_header", "name": "Date", "value": input.message.generated.date} if {
	not input.message.header.date
	_submission
}

edit contains {"op": "add_header", "name": "Message-ID", "value": input.message.generated.message_id} if {
	not input.message.header["message-id"]
	_submission
}

edit contains {"op": "replace_header", "name": "Date", "value": input.message.generated.date} if {
	input.message.unusable[0] # empty for most messages, which skip the rules that begin so
	"date" in input.message.unusable
	settings.date == "fix"
	not _signed("date")
	_submission
}

edit contains {"op": "replace_header", "name": "Message-ID", "value": input.message.generated.message_id} if {
	input.message.unusable[0]
	"message-id" in input.message.unusable
	settings.message_id == "fix"
	not _signed("message-id")
	_submission
}

reject contains {
	"rule": "message.date-unreadable",
	"code": 550,
	"status": "5.6.0",
	"message": "The Date field has no date that can be read; send one as in Mon, 01 Jun 2026 12:00:00 +0000, or none",
} if {
	input.message.unusable[0]
	"date" in input.message.unusable
	settings.date == "refuse"
	_submission
}

reject contains {
	"rule": "message.message-id-empty",
	"code": 550,
	"status": "5.6.0",
	"message": "The Message-ID field is empty; send an identifier as in <1@example.com>, or no such field",
} if {
	input.message.unusable[0]
	"message-id" in input.message.unusable
	settings.message_id == "refuse"
	_submission
}

# METADATA
# title: Notes
# description: What was found in a message and repaired or removed, for the decision log.
note contains {
	"rule": "message.date-unreadable",
	"was": [substring(value, 0, 200) | some value in input.message.header.date],
	"signed": _is_signed("date"),
} if {
	input.message.unusable[0]
	"date" in input.message.unusable
	_submission
}

note contains {
	"rule": "message.message-id-empty",
	"was": [substring(value, 0, 200) | some value in input.message.header["message-id"]],
	"signed": _is_signed("message-id"),
} if {
	input.message.unusable[0]
	"message-id" in input.message.unusable
	_submission
}

default _is_signed(_) := false

_is_signed(field) if _signed(field)

# Bcc does not count as a destination, because it is removed.
edit contains {"op": "add_header", "name": "To", "value": "undisclosed-recipients:;"} if {
	not input.message.header.to
	not input.message.header.cc
	_submission
}

edit contains {"op": "add_header", "name": "To", "value": "undisclosed-recipients:;"} if {
	input.message.unreadable[0] # empty for most messages, which skip the rule
	_destinations - _nobody == set()
	_submission
}

# A field that names nobody is removed, as RFC 5322 has no empty one but Bcc.
edit contains {"op": "remove_header", "name": field.name, "index": field.index} if {
	some field in input.message.unreadable
	_nobody[[lower(field.name), field.index]]
}

edit contains {"op": "remove_header", "name": "Bcc"} if {
	input.message.header.bcc
	_submission
}

edit contains {"op": "remove_header", "name": "Resent-Bcc"} if {
	input.message.header["resent-bcc"]
	_submission
}

edit contains {
	"op": "replace_header",
	"name": field.name,
	"index": field.index,
	"value": concat(_at_domain, field.pieces),
} if {
	some field in input.message.unqualified
	not _gone[lower(field.name)]
	not _kept[lower(field.name)]
	not _rewritten[[field.name, field.index]]
	_submission
}

edit contains {"op": "change_sender", "address": concat("", [input.envelope.from.address, _at_domain])} if {
	input.envelope.from.domain == ""
	input.envelope.from.null == false
	not input.envelope.from.unreadable
	_submission
}

edit contains {"op": "remove_recipient", "address": address} if {
	some address in _bare_recipients
	_at_domain
	_submission
}

edit contains {"op": "add_recipient", "address": concat("", [address, _at_domain])} if {
	some address in _bare_recipients
	_submission
}

_bare_recipients := {address |
	some recipient in input.envelope.to
	recipient.domain == ""
	address := recipient.address
	address != "" # one that cannot be read
}

# Undefined if no domain is configured.
_at_domain := concat("", ["@", settings.domain]) if settings.domain != ""

_destinations contains [name, index + 1] if {
	some name in ["to", "cc"]
	some index, _ in input.message.header[name]
}

_nobody contains [name, field.index] if {
	some field in input.message.unreadable
	field.nobody
	name := lower(field.name)
	_left_alone[name]
	not _blind[name]
	_submission
}

_blind := {"bcc", "resent-bcc"}

# Fields that another edit removes or replaces.
_gone := _blind | {"sender" | _sender_replaced}
