package postern.mail_test

import data.postern.fixture_test as fixture
import data.postern.mail

# The decision about MAIL FROM in a session: what allows and what refuses it.
_decide(session, address) := _decide_with(session, address, fixture.settings)

_decide_with(session, address, settings) := {"allow": allow, "reject": reject} if {
	request := fixture.mail(session, address)
	allow := mail.allow with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
	refusals := mail.reject with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
	reject := fixture.names(refusals)
}

_allowed(why) := {"allow": {why}, "reject": set()}

_refused(rule) := {"allow": set(), "reject": {rule}}

test_user[name] if {
	some name, [login, address, wanted] in {
		"own": ["alice", "alice@example.com", _allowed("own address")],
		"subaddress": ["alice", "alice+bounces@example.com", _allowed("own address")],
		"domain": ["alice", "any@example.org", _allowed("own address")],
		"delegated": ["alice", "team@example.com", _allowed("delegated address")],
		"on behalf": ["alice", "ceo@example.com", _allowed("on behalf of")],
		"group": ["alice", "help@example.com", _allowed("group's address")],
		"login": ["zoe@example.net", "zoe@example.net", _allowed("own login")],
		"unqualified": ["alice", "alice", _allowed("own address")],
		"null": ["alice", "", _allowed("null sender")],
		"another's": ["alice", "bob@example.com", _refused("mail.sender-not-yours")],
		"another's, unqualified": ["alice", "bob", _refused("mail.sender-not-yours")],
		"subdomain": ["alice", "x@sub.example.org", _refused("mail.sender-not-yours")],
		"ended": ["alice", "old@example.com", _refused("mail.right-ended")],
		"unknown login": ["mallory", "alice@example.com", _refused("mail.sender-not-yours")],
	}
	_decide(fixture.session(login), address) == wanted
}

test_trap_missing_documents[name] if {
	some name, documents in {
		"null": null,
		"empty": {},
		"list": [],
		"string": "alice",
		"no entries": {"alice": null},
		"string for a list": {"alice": "alice@example.com"},
		"list of lists": {"alice": [["alice@example.com"]]},
	}
	request := fixture.mail(fixture.session("alice"), "alice@example.com")
	mail.allow == set() with input as request
		with data.senders as documents
		with data.groups as documents
		with data.settings as documents
	refusals := mail.reject with input as request
		with data.senders as documents
		with data.groups as documents
		with data.settings as documents
	fixture.names(refusals) == {"mail.sender-not-yours"}
}

test_nobody if {
	_decide(fixture.session(null), "alice@example.com") == _refused("mail.authentication-required")
	_decide(fixture.session(""), "alice@example.com") == _refused("mail.sender-not-yours")
	_decide(fixture.session(null), "") == _refused("mail.authentication-required")
	_decide_with(fixture.session(null), "x@y", {"require_auth": false}) == _allowed("not a submission")
}

test_user_is_judged_where_authentication_is_not_required if {
	_decide_with(fixture.session("alice"), "bob@example.com", {"require_auth": false}) == _refused("mail.sender-not-yours")
}

test_unknown_is_decided_later if {
	_decide(fixture.local, "root") == _allowed("decided at the message")
	_decide_with(fixture.local, "root@localhost", {}) == _allowed("decided at the message")
}

test_null_sender_refused if {
	_decide_with(fixture.session("alice"), "", {"null_sender": false}) == _refused("mail.null-sender")
}

test_without_domain if {
	_decide_with(fixture.session("alice"), "alice", {}) == _refused("mail.sender-without-domain")
}

test_address_literal if {
	_decide(fixture.session("a@[192.0.2.1]"), "a@[192.0.2.1]").reject == {"mail.sender-address-literal"}
	_decide_with(fixture.session("a@[192.0.2.1]"), "a@[192.0.2.1]", {"allow_address_literals": true}) == _allowed("own login")
}

test_dotless_domain if {
	_decide(fixture.session("a@localhost"), "a@localhost").reject == {"mail.sender-dotless-domain"}
	_decide_with(fixture.session("a@localhost"), "a@localhost", {"allow_dotless_domains": true}) == _allowed("own login")
	_decide_with(fixture.session("a@localhost"), "a@localhost", {"domain": "localhost"}) == _allowed("own login")
}

test_what_people_are_told if {
	request := fixture.mail(fixture.session("alice"), "bob@example.com")
	refusals := mail.reject with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
	refusals == {{
		"rule": "mail.sender-not-yours",
		"code": 550,
		"status": "5.7.1",
		"message": "alice may not send as bob@example.com; use one of your own addresses, or ask the postmaster for the right",
	}}
}

test_nothing_passes_without_facts if {
	mail.allow == set() with input as {} with data.senders as {} with data.groups as {} with data.settings as {}
	mail.allow == set() with input as fixture.session("alice") with data.senders as fixture.senders with data.groups as {}
		with data.settings as {}
}

test_other_mail_is_not_judged if {
	every address in ["", "bob", "bob@localhost", "bob@[192.0.2.1]", "alice@example.com"] {
		_decide_with(fixture.session(null), address, {"require_auth": false, "null_sender": false}) == _allowed("not a submission")
		_decide_with(fixture.local, address, {"null_sender": false, "require_auth": false}) == _allowed("decided at the message")
	}
}

test_null_sender_setting_is_about_the_null_sender if {
	_decide_with(fixture.session("alice"), "alice@example.com", {"null_sender": false}) == _allowed("own address")
}

test_right_that_was_renewed if {
	renewed := {"alice": [
		{"address": "ceo@example.com", "until": "2026-01-01T00:00:00Z"},
		{"address": "ceo@example.com", "until": "2026-12-31T00:00:00Z"},
	]}
	reject := mail.reject with input as fixture.mail(fixture.session("alice"), "ceo@example.com")
		with data.senders as renewed
		with data.groups as {}
		with data.settings as {}
	reject == set()
}

test_sender_that_cannot_be_read if {
	odd := {"envelope": {"from": {"address": "", "key": "", "local": "", "domain": "", "null": false, "unreadable": "a b@@", "parameters": {}}}}
	request := object.union(fixture.mail(fixture.session("alice"), "alice@example.com"), odd)
	every settings in [{}, {"domain": "example.com"}] {
		refusals := mail.reject with input as request with data.senders as fixture.senders with data.groups as fixture.groups with data.settings as settings
		fixture.names(refusals) == {"mail.sender-unreadable"}
	}
	other := object.union(fixture.mail(fixture.session(null), "alice@example.com"), odd)
	mail.reject == set() with input as other with data.senders as {} with data.groups as {} with data.settings as {"require_auth": false}
}
