package postern.rcpt_test

import data.postern.fixture_test as fixture
import data.postern.rcpt

_decide(session, address, before, settings) := {"defer": fixture.names(defer), "reject": fixture.names(reject)} if {
	request := fixture.rcpt(session, address, before)
	defer := rcpt.defer with input as request
		with data.settings as settings
		with data.senders as {}
		with data.groups as {}
	reject := rcpt.reject with input as request
		with data.settings as settings
		with data.senders as {}
		with data.groups as {}
}

_accepted := {"defer": set(), "reject": set()}

_refused(rule) := {"defer": set(), "reject": {rule}}

_deferred := {"defer": {"rcpt.too-many"}, "reject": set()}

test_user[name] if {
	some name, [address, before, settings, wanted] in {
		"ordinary": ["bob@example.net", 0, {}, _accepted],
		"hundredth": ["bob@example.net", 99, {}, _accepted],
		"one too many": ["bob@example.net", 100, {}, _deferred],
		"limit of the operator": ["bob@example.net", 2, {"max_recipients": 2}, _deferred],
		"limit not reached": ["bob@example.net", 1, {"max_recipients": 2}, _accepted],
		"limit raised": ["bob@example.net", 100, {"max_recipients": 101}, _accepted],
		"limit that is none": ["bob@example.net", 100, {"max_recipients": "many"}, _deferred],
		"without domain": ["bob", 0, {}, _refused("rcpt.without-domain")],
		"completed": ["bob", 0, {"domain": "example.com"}, _accepted],
		"postmaster": ["Postmaster", 0, {}, _accepted],
		"address literal": ["bob@[192.0.2.1]", 0, {}, _refused("rcpt.address-literal")],
		"address literal, IPv6": ["bob@[IPv6:::1]", 0, {}, _refused("rcpt.address-literal")],
		"address literal allowed": ["bob@[192.0.2.1]", 0, {"allow_address_literals": true}, _accepted],
		"dotless": ["bob@localhost", 0, {}, _refused("rcpt.dotless-domain")],
		"dotless allowed": ["bob@localhost", 0, {"allow_dotless_domains": true}, _accepted],
		"dotless but ours": ["bob@localhost", 0, {"domain": "localhost"}, _accepted],
	}
	_decide(fixture.session("alice"), address, before, settings) == wanted
}

test_others_are_not_refused_here[name] if {
	some name, session in {"unknown": fixture.local, "nobody": fixture.session(null)}
	every address in ["bob", "bob@localhost", "bob@[192.0.2.1]", "bob@example.net"] {
		_decide(session, address, 100, {}) == _accepted
	}
}

test_what_people_are_told if {
	defer := rcpt.defer with input as fixture.rcpt(fixture.session("alice"), "x@example.net", 2)
		with data.settings as {"max_recipients": 2}
		with data.senders as {}
		with data.groups as {}
	defer == {{
		"rule": "rcpt.too-many",
		"code": 452,
		"status": "4.5.3",
		"message": "Too many recipients; send to at most 2 at a time",
	}}
}

test_recipient_that_cannot_be_read if {
	odd := {"recipient": {"address": "", "key": "", "local": "", "domain": "", "null": false, "unreadable": "a b@@", "parameters": {}}}
	request := object.union(fixture.rcpt(fixture.session("alice"), "bob@example.net", 0), odd)
	rcpt.reject == set() with input as request with data.settings as {}
}
