package postern.message

import data.postern.lib.settings

# METADATA
# title: Canonical originators
# description: |
#   From, Sender, Resent-From and Resent-Sender leave in a form with one reading. The server says which fields have more than plain names and
#   addresses, and how they read in that form.
# custom:
#   rfc: RFC 5322 section 3.6.2, RFC 2047, RFC 6376 section 5.4
edit contains {
	"op": "replace_header",
	"name": field.name,
	"index": field.index,
	"value": concat(_completion, field.pieces),
} if {
	some field in input.message.canonical
	_rewritten[[field.name, field.index]]
}

reject contains {
	"rule": "message.originator-form",
	"code": 550,
	"status": "5.6.0",
	"message": sprintf(
		"The %s field can be read in more than one way; write a plain name, without comments and backslashes, and the address behind it",
		[field.name],
	),
} if {
	input.message.canonical[0] # empty for most messages, which skip the rules that begin so
	some field in _irregular
	settings.canonical_originators == "refuse"
}

reject contains {
	"rule": "message.originator-signed",
	"code": 550,
	"status": "5.6.0",
	"message": sprintf(
		"The %s field can be read in more than one way, and to mend it would break the DKIM signature; write a plain name and sign again",
		[field.name],
	),
} if {
	input.message.canonical[0]
	some field in _irregular
	settings.canonical_originators == "rewrite"
	_signed(lower(field.name))
}

# Originator fields that need another form and are not replaced as a whole.
_irregular contains field if {
	some field in input.message.canonical
	not _gone[lower(field.name)]
	not _kept[lower(field.name)]
	_submission
}

_rewritten contains [field.name, field.index] if {
	some field in _irregular
	settings.canonical_originators == "rewrite"
}

_completion := "" if settings.domain == ""

_completion := _at_domain

# Whether a DKIM signature of the message covers a field. From is always covered.
_signed("from") if input.message.header["dkim-signature"]

_signed(name) if {
	some signature in input.message.header["dkim-signature"]
	some tag in split(signature, ";")
	["h", names] = split(replace(replace(tag, " ", ""), "\t", ""), "=")
	name in split(lower(names), ":")
}
