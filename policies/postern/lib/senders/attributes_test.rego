package postern.lib.senders_test

import data.postern.fixture_test as fixture
import data.postern.lib.senders

_attributes := {
	"mail": ["Alice@example.net", "press@example.net"],
	"alternate": ["desk@example.net"],
	"bad": ["@example.net", "a b@example.net", "x@y@example.net", "<z@example.net>", "", "group:support", "no-domain"],
}

_session := object.union(fixture.session("ldap"), {"auth": {"attributes": _attributes}})

_by_attribute(names, address) := right if {
	right := _as(fixture.box(address)) with input as _session
		with data.senders as {}
		with data.groups as fixture.groups
		with data.settings as {"sender_attributes": names}
}

test_attributes[name] if {
	some name, [names, address, wanted] in {
		"first": [["mail"], "alice@example.net", "send-as"],
		"second": [["mail"], "press@example.net", "send-as"],
		"subaddress": [["mail"], "press+x@example.net", "send-as"],
		"another attribute": [["mail", "alternate"], "desk@example.net", "send-as"],
		"not named": [["mail"], "desk@example.net", "none"],
		"none named": [[], "alice@example.net", "none"],
		"not there": [["nothing"], "alice@example.net", "none"],
		"not a list": ["mail", "alice@example.net", "none"],
		"no names": [[1, null, ["mail"]], "alice@example.net", "none"],
		"no wildcard": [["bad"], "x@example.net", "none"],
		"no such address": [["bad"], "z@example.net", "none"],
		"no group": [["bad"], "help@example.com", "none"],
		"somebody else's": [["mail", "alternate", "bad"], "bob@example.com", "none"],
	}
	_by_attribute(names, address) == wanted
}

test_attributes_why if {
	why := senders.right("press@example.net", "example.net").why with input as _session
		with data.senders as {}
		with data.groups as {}
		with data.settings as {"sender_attributes": ["mail"]}
	why == "address from the directory"
}

# An entry in data.senders outranks one of the directory for the same address.
test_operator_outranks_attributes if {
	delegated := {"ldap": ["press@example.net"]}
	why := senders.right("press@example.net", "example.net").why with input as _session
		with data.senders as delegated
		with data.groups as {}
		with data.settings as {"sender_attributes": ["mail"]}
	why == "own address"
}

# The same where the address has a subaddress, and an address of the directory outranks a delegation.
test_order_with_attributes if {
	_why_with(["press@example.net"], "press+x@example.net") == "own address"
	_why_with([{"address": "press@example.net"}], "press@example.net") == "address from the directory"
	_why_with([{"address": "press@example.net", "as": "on-behalf"}], "press+x@example.net") == "address from the directory"
}

_why_with(entries, address) := why if {
	why := senders.right(address, "example.net").why with input as _session
		with data.senders as {"ldap": entries}
		with data.groups as {}
		with data.settings as {"sender_attributes": ["mail"]}
}

test_operators_address_is_primary if {
	address := senders.primary with input as _session
		with data.senders as {"ldap": ["own@example.net"]}
		with data.settings as {"sender_attributes": ["mail"]}
	address == "own@example.net"
}

test_primary_from_attributes if {
	address := senders.primary with input as _session
		with data.senders as {"ldap": ["@example.org"]}
		with data.settings as {"sender_attributes": ["bad", "mail"]}
	address == "Alice@example.net"
}
