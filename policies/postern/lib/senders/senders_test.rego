package postern.lib.senders_test

import data.postern.fixture_test as fixture
import data.postern.lib.senders

# The right of a login to an address: "send-as", "on-behalf" or "none".
_right(login, address) := _right_at(login, address, fixture.now)

_right_at(login, address, now) := right if {
	right := _as(fixture.box(address)) with input as object.union(fixture.session(login), {"now": now})
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as fixture.settings
}

default _as(_) := "none"

_as(mailbox) := senders.right(mailbox.key, mailbox.domain).as

# The right that one entry gives to alice.
_given(entry, address) := right if {
	right := _as(fixture.box(address)) with input as fixture.session("alice")
		with data.senders as {"alice": [entry]}
		with data.groups as {}
		with data.settings as {}
}

test_right[name] if {
	some name, [login, address, wanted] in {
		"own": ["alice", "alice@example.com", "send-as"],
		"alias, case of the entry": ["alice", "sales@example.com", "send-as"],
		"case of the address": ["alice", "ALICE@Example.Com", "send-as"],
		"another's": ["alice", "bob@example.com", "none"],
		"nobody's": ["alice", "nobody@example.com", "none"],
		"domain": ["alice", "anything@example.org", "send-as"],
		"domain, subaddress": ["alice", "any+thing@example.org", "send-as"],
		"subdomain": ["alice", "x@sub.example.org", "none"],
		"domain as prefix": ["alice", "evil@example.org.evil.com", "none"],
		"domain as suffix": ["alice", "x@notexample.org", "none"],
		"domain in the local part": ["alice", "\"x@example.org\"@evil.com", "none"],
		"most specific first": ["alice", "boss@example.org", "on-behalf"],
		"most specific first, subaddress": ["alice", "boss+x@example.org", "on-behalf"],
		"subaddress": ["alice", "alice+news@example.com", "send-as"],
		"subaddress, empty": ["alice", "alice+@example.com", "send-as"],
		"subaddress, twice": ["alice", "alice+a+b@example.com", "send-as"],
		"subaddress on behalf": ["alice", "ceo+x@example.com", "on-behalf"],
		"subaddress of nobody": ["alice", "+@example.com", "none"],
		"subaddress of nobody with text": ["alice", "+alice@example.com", "none"],
		"subaddress of another": ["alice", "bob+alice@example.com", "none"],
		"subaddress in the domain": ["alice", "alice@example.com+x", "none"],
		"subaddress in quotes": ["alice", "\"alice+ x\"@example.com", "none"],
		"prefix without separator": ["alice", "alicex@example.com", "none"],
		"delegated": ["alice", "team@example.com", "send-as"],
		"on behalf": ["alice", "ceo@example.com", "on-behalf"],
		"expired": ["alice", "old@example.com", "none"],
		"group": ["alice", "help@example.com", "send-as"],
		"group on behalf": ["alice", "director@example.com", "on-behalf"],
		"group that is not hers": ["alice", "press@example.com", "none"],
		"group that is not his": ["bob", "help@example.com", "none"],
		"a group's name is no login": ["support", "help@example.com", "none"],
		"unqualified": ["alice", "alice", "send-as"],
		"unqualified, another's": ["alice", "bob", "none"],
		"unqualified, subaddress": ["alice", "alice+x", "send-as"],
		"null": ["alice", "", "none"],
		"unknown login": ["mallory", "alice@example.com", "none"],
		"empty login": ["", "alice@example.com", "none"],
		"login in another case": ["Alice", "alice@example.com", "none"],
		"login is an address": ["zoe@example.net", "zoe@example.net", "send-as"],
		"login is an address, its case": ["Zoe@Example.Net", "zoe@example.net", "send-as"],
		"login is an address, subaddress": ["zoe@example.net", "zoe+x@example.net", "send-as"],
		"login is an address, another's": ["zoe@example.net", "alice@example.com", "none"],
		"login looks like a domain": ["@example.net", "zoe@example.net", "none"],
		"login is a local part": ["carol", "carol@example.com", "none"],
	}
	_right(login, address) == wanted
}

test_one_entry[name] if {
	some name, [entry, address, wanted] in {
		"as is send-as by default": [{"address": "a@example.com"}, "a@example.com", "send-as"],
		"delegated domain": [{"address": "@example.com", "as": "on-behalf"}, "a@example.com", "on-behalf"],
		"until in the future": [{"address": "a@example.com", "until": "2026-06-01T12:00:01Z"}, "a@example.com", "send-as"],
		"until now": [{"address": "a@example.com", "until": "2026-06-01T12:00:00Z"}, "a@example.com", "none"],
		"until with a fraction": [{"address": "a@example.com", "until": "2026-06-01T12:00:00.9Z"}, "a@example.com", "none"],
		"until east, future": [{"address": "a@example.com", "until": "2026-06-01T14:00:01+02:00"}, "a@example.com", "send-as"],
		"until east, past": [{"address": "a@example.com", "until": "2026-06-01T14:00:00+02:00"}, "a@example.com", "none"],
		"until west, future": [{"address": "a@example.com", "until": "2026-06-01T06:30:01-05:30"}, "a@example.com", "send-as"],
		"until west, past": [{"address": "a@example.com", "until": "2026-06-01T06:30:00-05:30"}, "a@example.com", "none"],
		"until this day": [{"address": "a@example.com", "until": "2026-06-01"}, "a@example.com", "send-as"],
		"until yesterday": [{"address": "a@example.com", "until": "2026-05-31"}, "a@example.com", "none"],
		"until far away": [{"address": "a@example.com", "until": "9999-12-31T00:00:00Z"}, "a@example.com", "send-as"],
		"until a day that is none": [{"address": "a@example.com", "until": "2026-02-31T00:00:00Z"}, "a@example.com", "none"],
		"until is no time": [{"address": "a@example.com", "until": "next year"}, "a@example.com", "none"],
		"until is no month": [{"address": "a@example.com", "until": "2026-13-01T00:00:00Z"}, "a@example.com", "none"],
		"until is null": [{"address": "a@example.com", "until": null}, "a@example.com", "none"],
		"until is false": [{"address": "a@example.com", "until": false}, "a@example.com", "none"],
		"until is a number": [{"address": "a@example.com", "until": 9999999999}, "a@example.com", "none"],
		"until is empty": [{"address": "a@example.com", "until": ""}, "a@example.com", "none"],
		"as is unknown": [{"address": "a@example.com", "as": "sendas"}, "a@example.com", "none"],
		"as is null": [{"address": "a@example.com", "as": null}, "a@example.com", "none"],
		"address is a list": [{"address": ["a@example.com"]}, "a@example.com", "none"],
		"no address": [{"as": "send-as"}, "a@example.com", "none"],
		"a list": [["a@example.com"], "a@example.com", "none"],
		"a number": [1, "a@example.com", "none"],
		"null": [null, "a@example.com", "none"],
		"true": [true, "a@example.com", "none"],
		"empty": ["", "a@example.com", "none"],
		"at alone": ["@", "a", "none"],
		"asterisk is no wildcard": ["*", "a@example.com", "none"],
		"asterisk in an address is no wildcard": ["*@example.com", "a@example.com", "none"],
		"unqualified entry": ["a", "a", "none"],
		"a group without entries": ["group:none", "a@example.com", "none"],
	}
	_given(entry, address) == wanted
}

test_entries_that_are_no_list_grant_nothing[name] if {
	some name, entries in {
		"string": "a@example.com",
		"object": {"x": "a@example.com"},
		"null": null,
		"boolean": true,
	}
	_as(fixture.box("a@example.com")) == "none" with input as fixture.session("alice")
		with data.senders as {"alice": entries}
		with data.groups as {}
		with data.settings as {}
	_as(fixture.box("a@example.com")) == "none" with input as fixture.session("alice")
		with data.senders as {"alice": ["group:g"]}
		with data.groups as {"g": entries}
		with data.settings as {}
}

test_no_documents_at_all if {
	_as(fixture.box("a@example.com")) == "none" with input as fixture.session("alice")
		with data.senders as null
		with data.groups as null
		with data.settings as null
}

test_group_from_authentication if {
	session := object.union(fixture.session("bob"), {"auth": {"groups": ["press"]}})
	senders.right("press@example.com", "example.com") == {"as": "send-as", "why": "group's address"} with input as session
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
}

test_why[address] if {
	some address, why in {
		"alice@example.com": "own address",
		"team@example.com": "delegated address",
		"ceo@example.com": "on behalf of",
		"help@example.com": "group's address",
		"director@example.com": "on behalf of a group's address",
	}
	senders.right(address, "example.com").why == why with input as fixture.session("alice")
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
}

test_send_as_outranks_on_behalf if {
	_as(fixture.box("a@example.com")) == "send-as" with input as fixture.session("alice")
		with data.senders as {"alice": ["a@example.com", {"address": "a@example.com", "as": "on-behalf"}]}
		with data.groups as {}
		with data.settings as {}
}

# Every pair of entries of one address, in both orders: who grants it first, and the order of the list does not matter.
test_order_of_two_entries[name] if {
	some name, [first, second, wanted] in {
		"delegated before on behalf": [{"address": "a@example.com", "as": "send-as"}, {"address": "a@example.com", "as": "on-behalf"}, "delegated address"],
		"delegated without a kind": [{"address": "A@example.com"}, {"address": "a@example.com", "as": "on-behalf"}, "delegated address"],
		"plain before delegated": ["A@example.com", {"address": "a@example.com"}, "own address"],
		"plain before on behalf": ["A@example.com", {"address": "a@example.com", "as": "on-behalf"}, "own address"],
		"delegated before a group's": [{"address": "a@example.com"}, "group:plain", "delegated address"],
		"on behalf before a group's": [{"address": "a@example.com", "as": "on-behalf"}, "group:plain", "on behalf of"],
		"a group's delegated before its on behalf": ["group:delegated", "group:behalf", "group's address"],
		"a group's plain before another's on behalf": ["group:plain", "group:behalf", "group's address"],
	}
	every entries in [[first, second], [second, first]] {
		_why(entries) == wanted
	}
}

_why(entries) := right if {
	right := _why_of("a@example.com") with input as fixture.session("alice")
		with data.senders as {"alice": entries}
		with data.groups as {
			"plain": ["a@example.com"],
			"delegated": [{"address": "a@example.com", "as": "send-as"}],
			"behalf": [{"address": "a@example.com", "as": "on-behalf"}],
		}
		with data.settings as {}
}

_why_of(address) := senders.right(address, "example.com").why

test_own_entries_outrank_a_groups if {
	_as(fixture.box("a@example.com")) == "on-behalf" with input as fixture.session("alice")
		with data.senders as {"alice": ["group:g", {"address": "a@example.com", "as": "on-behalf"}]}
		with data.groups as {"g": ["a@example.com"]}
		with data.settings as {}
}

test_membership_says_group if {
	_as(fixture.box("a@example.com")) == "none" with input as fixture.session("alice")
		with data.senders as {"alice": ["g"]}
		with data.groups as {"g": ["a@example.com"]}
		with data.settings as {}
}

test_groups_are_not_nested if {
	_as(fixture.box("a@example.com")) == "none" with input as fixture.session("alice")
		with data.senders as {"alice": ["group:g"]}
		with data.groups as {"g": ["group:h"], "h": ["a@example.com"]}
		with data.settings as {}
}

test_subaddress_separator if {
	_subaddress("-", "alice-news@example.com") == "send-as"
	_subaddress("-", "alice+news@example.com") == "none"
	_subaddress("", "alice+news@example.com") == "none"
	_subaddress("", "alice@example.com") == "send-as"
	_subaddress("--", "alice--x@example.com") == "send-as"
	_subaddress("@", "alice@example.com") == "send-as"
	_subaddress("@", "bob@example.com") == "none"
	_subaddress("-", "alice@my-host.com") == "none"
	_subaddress(1, "alice+news@example.com") == "none"
}

_subaddress(separator, address) := right if {
	right := _as(fixture.box(address)) with input as fixture.session("alice")
		with data.senders as {"alice": ["alice@example.com"]}
		with data.groups as {}
		with data.settings as {"subaddress_separator": separator}
}

test_ended if {
	_ends("old@example.com")
	_ends("OLD+x@example.com")
	not _ends("alice@example.com")
	not _ends("ceo@example.com")
	not _ends("nobody@example.com")
}

_ends(address) if senders.ended(lower(address), "example.com") with input as fixture.session("alice")
	with data.senders as fixture.senders
	with data.groups as fixture.groups
	with data.settings as fixture.settings

test_until_needs_a_clock if {
	_as(fixture.box("ceo@example.com")) == "none" with input as {"auth": {"login": "alice"}}
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
}

test_unqualified_without_a_domain if {
	_as(fixture.box("alice")) == "none" with input as fixture.session("alice")
		with data.senders as {"alice": ["alice", "alice@", "@"]}
		with data.groups as {}
		with data.settings as {}
	not _judges("alice", {})
	not _judges("", {"domain": "example.com"})
	_judges("alice", {"domain": "example.com"})
	_judges("alice@example.com", {})
}

_judges(address, settings) if senders.judged(address, fixture.box(address).domain) with data.settings as settings

_primary(login, entries) := primary if {
	primary := _or_none with input as fixture.session(login)
		with data.senders as {login: entries}
		with data.groups as fixture.groups
}

default _or_none := "none"

_or_none := senders.primary

test_primary if {
	_primary("alice", ["@example.org", "group:support", "Alice@example.com", "b@example.com"]) == "Alice@example.com"
	_primary("alice", [{"address": "a@example.com"}, "@example.org"]) == "none"
	_primary("alice", ["group:support"]) == "none"
	_primary("zoe@example.net", []) == "zoe@example.net"
	_primary("zoe@example.net", ["z@example.net"]) == "z@example.net"
	_primary("zoe@example.net, ceo@example.com", []) == "none"
	_primary("alice", ["a b@example.com", "<a@example.com>", "a@b@example.com", 1, "a@example.com"]) == "a@example.com"
}

test_who if {
	senders.who == "user" with input as fixture.session("alice")
	senders.who == "user" with input as object.union(fixture.session("alice"), {"unknown": ["auth"]})
	senders.who == "unknown" with input as fixture.local
	senders.who == "nobody" with input as fixture.session(null)
	senders.who == "nobody" with input as {"unknown": ["tls"]}
	senders.who == "nobody" with input as {}
}

# A letter that Unicode maps to "i" and a mark is another letter.
test_only_ascii_letters_are_folded if {
	session := fixture.session("al\u0130ce@example.com")
	rights := {"al\u0130ce@example.com": ["B\u00dcCHER@example.com"]}
	_keys(session, rights) == {"al\u0130ce@example.com", "b\u00dccher@example.com"}
}

_keys(session, rights) := {key |
	some key in ["alice@example.com", "ali\u0307ce@example.com", "al\u0130ce@example.com", "b\u00fccher@example.com", "b\u00dccher@example.com"]
	senders.right(key, "example.com") with input as session with data.senders as rights with data.groups as {} with data.settings as {}
}
