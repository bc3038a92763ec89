# METADATA
# scope: package
# title: Rights to send
# description: |
#   Who sends, and which addresses the login may use. Rules only ever grant: an unknown, malformed or expired entry
#   grants nothing. Only the entries of this login are read, so the number of users does not matter.
# custom:
#   rfc: RFC 6409 section 6.1
package postern.lib.senders

import data.postern.lib.settings

# METADATA
# title: Login
# description: The authenticated login, undefined if there is none.
login := input.auth.login

# METADATA
# title: Who sends
# description: |
#   "user" if the client has authenticated; "unknown" if the server cannot tell, as for mail from its own host; "nobody"
#   if the client has not authenticated.
default who := "nobody"

who := "user" if {
	input.auth.login
} else := "unknown" if {
	"auth" in input.unknown
}

# METADATA
# title: Grants
# description: |
#   What the login may send as: maps a lower-case address, or "@domain", to {as, why}. If entries disagree about an
#   address, those of the login outrank those of its groups, and within each, send-as outranks on-behalf.
grants := object.union_n([
	_group_grants,
	_delegated(_lasting_of(_own), "on-behalf", "on behalf of"),
	_delegated(_lasting_of(_own), "send-as", "delegated address"),
	_plain(_attributed, "address from the directory"),
	_plain_own,
	{_folded(login): {"as": "send-as", "why": "own login"} | indexof(login, "@") > 0},
])

# METADATA
# title: Right to an address
# description: |
#   The grant {as, why} by which the login may use an address, given as the key and the domain of a mailbox. Undefined if
#   there is none. The most specific counts: the address, then the address without its subaddress, then its domain.
right(key, domain) := {"as": "send-as", "why": "own address"} if {
	domain != ""
	key in _own # true for nearly all mail, and then the other rules are skipped
} else := _plain_own[key] if {
	domain != ""
} else := [grant | some rung in _ladder(key, domain); grant := grants[rung]][0]

# METADATA
# title: Expired right
# description: Whether the login had a right to an address that has expired.
ended(key, domain) if {
	some rung in _ladder(key, domain)
	_ended[rung]
}

# METADATA
# title: Address with a domain
# description: Whether an address has a domain, its own or the configured one, so that rights to it can be checked.
judged(_, domain) if domain != ""

judged(key, "") if {
	key != ""
	settings.domain != ""
}

# METADATA
# title: Primary address
# description: |
#   The address of the login for Sender: the first plain address of its entries, else the first of its attributes, else the
#   login if that is an address; undefined otherwise.
# custom:
#   rfc: RFC 5322 section 3.6.2
primary := [address |
	some address in array.concat(array.concat(_own, _attributed), [login])
	is_string(address)
	_is_plain(address)
][0]

_is_plain(address) if regex.match(`^[^\x00-\x20()<>\[\]:;@\\,"\x7f]+@[^\x00-\x20()<>:;@\\,"\x7f]+$`, address)

# Addresses from the attributes of the login, in the order of the setting. An attribute cannot hold a wildcard, because
# "@domain" is not an address.
_attributed := [address |
	some name in settings.sender_attributes
	some address in input.auth.attributes[name] # postern:ignore fact-unknown-at-door -- data.senders names addresses as well
	_is_plain(address)
]

default _own := []

_own := entries if {
	entries := data.senders[input.auth.login]
	is_array(entries)
}

# The entries of all groups of the login: those that its entries name and those from its authentication.
_shared := [entry |
	some name in _groups
	is_array(data.groups[name])
	some entry in data.groups[name]
]

_groups := {trim_prefix(entry, "group:") |
	some entry in _own
	is_string(entry)
	startswith(entry, "group:")
} | {name | some name in input.auth.groups} # postern:ignore fact-unknown-at-door -- data.senders names groups as well

default _group_grants := {}

_group_grants := object.union_n([
	_delegated(_lasting_of(_shared), "on-behalf", "on behalf of a group's address"),
	_delegated(_lasting_of(_shared), "send-as", "group's address"),
	_plain(_shared, "group's address"),
]) if {
	count(_shared) > 0
}

_plain_own := _plain(_own, "own address")

_plain(entries, why) := {_folded(entry): {"as": "send-as", "why": why} |
	some entry in entries
	is_string(entry)
}

_delegated(entries, kind, why) := {_folded(entry.address): {"as": kind, "why": why} |
	some entry in entries
	object.get(entry, "as", "send-as") == kind
}

# A text with ASCII letters in lower case. lower() would change other letters as well, and make somebody else's address of one such as "alİce@".
_folded(text) := lower(text) if regex.match(`^[\x00-\x7f]*$`, text)

_folded(text) := strings.replace_n(_small, text) if not regex.match(`^[\x00-\x7f]*$`, text)

_small := {
	"A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "F": "f", "G": "g", "H": "h", "I": "i", "J": "j", "K": "k", "L": "l", "M": "m",
	"N": "n", "O": "o", "P": "p", "Q": "q", "R": "r", "S": "s", "T": "t", "U": "u", "V": "v", "W": "w", "X": "x", "Y": "y", "Z": "z",
}

# Well-formed delegations that have not expired.
_lasting_of(entries) := [entry |
	some entry in entries
	is_object(entry)
	is_string(entry.address)
	_lasting(entry)
]

_ended := {_folded(entry.address) |
	some entry in array.concat(_own, _shared)
	is_object(entry)
	is_string(entry.address)
	is_string(entry.until)
	not _lasting(entry)
}

_lasting(entry) if not "until" in object.keys(entry)

# A date without a time lasts until the end of that day in UTC.
_lasting(entry) if {
	is_string(entry.until)
	count(entry.until) == 10
	regex.match(`^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$`, entry.until)
	substring(time.format(input.now), 0, 10) <= entry.until
}

# RFC 3339. Times are compared as text, in the offset that the operator wrote. Parsing a time that does not exist would be
# an error, and that would stop all mail of the login.
_lasting(entry) if {
	is_string(entry.until)
	count(entry.until) > 10
	regex.match(
		`^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`,
		entry.until,
	)
	now := time.format(input.now + _offset(entry.until))
	substring(now, 0, 19) < substring(entry.until, 0, 19)
}

# The offset from UTC, in nanoseconds, of a valid RFC 3339 time.
_offset(until) := 0 if endswith(until, "Z")

_offset(until) := ((sign * ((hours * 60) + minutes)) * 60) * 1000000000 if {
	not endswith(until, "Z")
	zone := substring(until, count(until) - 6, 6)
	sign := {"+": 1, "-": -1}[substring(zone, 0, 1)]
	hours := to_number(substring(zone, 1, 2))
	minutes := to_number(substring(zone, 4, 2))
}

# The keys of grants that can cover an address, most specific first. The domain may be the configured one.
_ladder(key, domain) := _rungs(key, domain) if domain != ""

_ladder(key, "") := _rungs(concat("@", [key, settings.domain]), settings.domain) if judged(key, "")

_rungs(key, domain) := [key, concat("", [substring(key, 0, at), "@", domain]), concat("", ["@", domain])] if {
	settings.subaddress_separator != ""
	at := indexof(key, settings.subaddress_separator)
	at > 0
} else := [key, concat("", ["@", domain])]
