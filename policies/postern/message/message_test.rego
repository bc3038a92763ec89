package postern.message_test

import data.postern.fixture_test as fixture
import data.postern.message

_decide(request) := _decide_with(request, fixture.settings)

_decide_with(request, settings) := {"allow": allow, "reject": fixture.names(reject)} if {
	allow := message.allow with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
	reject := message.reject with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
}

_allowed(why) := {"allow": why, "reject": set()}

_refused(rules) := {"allow": set(), "reject": rules}

test_originators[name] if {
	some name, [authors, sender, wanted] in {
		"own": [["alice@example.com"], [], _allowed({"own address"})],
		"subaddress": [["alice+news@example.com"], [], _allowed({"own address"})],
		"domain": [["x@example.org"], [], _allowed({"own address"})],
		"on behalf": [["ceo@example.com"], [], _allowed({"on behalf of"})],
		"group": [["help@example.com"], [], _allowed({"group's address"})],
		"several, all hers": [["alice@example.com", "help@example.com"], ["alice@example.com"], _allowed({"own address", "group's address"})],
		"unqualified": [["alice"], [], _allowed({"own address"})],
		"another's": [["bob@example.com"], [], _refused({"message.from-not-yours"})],
		"one of several": [["alice@example.com", "bob@example.com"], ["alice@example.com"], _refused({"message.from-not-yours"})],
		"unqualified, another's": [["bob"], [], _refused({"message.from-not-yours"})],
		"subdomain": [["x@sub.example.org"], [], _refused({"message.from-not-yours"})],
		"ended": [["old@example.com"], [], _refused({"message.right-ended"})],
		"another's, her Sender": [["bob@example.com"], ["alice@example.com"], _refused({"message.from-not-yours"})],
		"none that can be read": [[], [], _refused(set())],
	}
	_decide(fixture.written(authors, sender)) == wanted
}

test_trap_missing_documents[name] if {
	some name, documents in {
		"null": null,
		"empty": {},
		"list": [],
		"string": "alice",
		"no entries": {"alice": null},
		"string for a list": {"alice": "alice@example.com"},
	}
	request := fixture.written(["alice@example.com"], [])
	message.allow == set() with input as request
		with data.senders as documents
		with data.groups as documents
		with data.settings as documents
	reject := message.reject with input as request
		with data.senders as documents
		with data.groups as documents
		with data.settings as documents
	fixture.names(reject) == {"message.from-not-yours", "message.sender-not-yours"}
}

test_unknown_login if {
	_decide(fixture.message(fixture.session("mallory"), {})).allow == set()
	_decide(fixture.message(fixture.session("mallory"), {})).reject == {"message.from-not-yours", "message.sender-not-yours"}
}

test_missing_facts_allow_nothing[fact] if {
	some fact in ["from", "sender", "resent"]
	request := json.patch(fixture.written(["alice@example.com"], []), [{"op": "remove", "path": concat("/", ["/message", fact])}])
	_decide(request).allow == set()
}

test_envelope if {
	request := fixture.written(["alice@example.com"], [])
	_decide(fixture.envelope(request, "bob@example.com", ["x@example.net"])) == _refused({"message.sender-not-yours"})
	_decide(fixture.envelope(request, "old@example.com", ["x@example.net"])) == _refused({"message.right-ended"})
	_decide(fixture.envelope(request, "", ["x@example.net"])) == _allowed({"own address"})
	_decide_with(fixture.envelope(request, "", ["x@example.net"]), {"null_sender": false}) == _refused(set())
}

test_null_sender_is_no_way_around_the_author if {
	request := fixture.envelope(fixture.written(["bob@example.com"], []), "", ["x@example.net"])
	_decide(request) == _refused({"message.from-not-yours"})
}

test_resent if {
	_decide(fixture.message(fixture.session("alice"), {"resent": fixture.boxes(["alice@example.com"])})) == _allowed({"own address"})
	_decide(fixture.message(fixture.session("alice"), {"resent": fixture.boxes(["ceo@example.com"])})) == _allowed({"own address"})
	_decide(fixture.message(
		fixture.session("alice"),
		{"resent": fixture.boxes(["alice@example.com", "bob@example.com"])},
	)) == _refused({"message.resent-not-yours"})
}

test_ambiguous if {
	facts := {"ambiguous": [
		{"kind": "duplicate-from", "field": "from", "text": "There are two From fields; leave one."},
		{"kind": "via-address-in-display-name", "field": "from", "text": "The name is an address.", "address": "bob@example.net"},
	]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request).reject == {"message.ambiguous"}
	_decide_with(request, {"ambiguous_allow": ["duplicate-from", "via-address-in-display-name"]}) == _allowed({"own address"})
	refusals := message.reject with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
	refusals == {{
		"rule": "message.ambiguous",
		"code": 550,
		"status": "5.6.0",
		"message": "There are two From fields; leave one.",
	}}
}

test_strictest if {
	facts := {"ambiguous": [{"kind": "via-address-in-display-name", "field": "from", "text": "The name is an address.", "address": "bob@example.net"}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request) == _allowed({"own address"})
	_decide_with(request, {"ambiguous_allow": []}).reject == {"message.ambiguous"}
}

test_no_author_is_never_allowed if {
	facts := {"from": [], "ambiguous": [{"kind": "missing-from", "field": "from", "text": "There is no From field."}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request) == _refused({"message.ambiguous"})
	_decide_with(request, {"ambiguous_allow": ["missing-from"]}) == _refused(set())
}

# The facts of a message with more originators than are read: none of them is in the input.
test_too_many_originators_are_never_allowed if {
	facts := {"from": [], "resent": [], "ambiguous": [{"kind": "too-many-originators", "field": "resent-from", "text": "Name fewer."}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request) == _refused({"message.ambiguous"})
	_decide_with(request, {"ambiguous_allow": ["too-many-originators"]}) == _refused(set())
}

test_ambiguity_that_does_not_leave[field] if {
	some field in ["bcc", "resent-bcc"]
	facts := {"ambiguous": [{"kind": "unparsable-bcc", "field": field, "text": "The field cannot be read."}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request) == _allowed({"own address"})
	_decide_with(request, {"domain": "example.com", "recipient_fields": "strict"}) == _allowed({"own address"})
}

test_header_without_domain if {
	facts := {
		"from": [fixture.box("alice")],
		"unqualified": [{"name": "From", "index": 1, "pieces": ["alice", ""]}, {"name": "Bcc", "index": 1, "pieces": ["eve", ""]}],
	}
	request := fixture.message(fixture.session("alice"), facts)
	_decide_with(request, {}) == {"allow": set(), "reject": {"message.address-without-domain"}}
	_decide(request) == _allowed({"own address"})
}

test_bcc_without_domain_does_not_matter if {
	facts := {"unqualified": [{"name": "BCC", "index": 1, "pieces": ["eve", ""]}]}
	_decide_with(fixture.message(fixture.session("alice"), facts), {}) == _allowed({"own address"})
}

test_nobody if {
	request := fixture.message(fixture.session(null), {"from": fixture.boxes(["stranger@example.net"])})
	_decide(request) == _refused({"message.authentication-required"})
	_decide_with(request, {"require_auth": false}) == _allowed({"not a submission"})
}

test_user_is_judged_where_authentication_is_not_required if {
	_decide_with(fixture.written(["bob@example.com"], []), {"require_auth": false}).reject == {"message.from-not-yours"}
}

test_unknown if {
	request := fixture.message(fixture.local, {"from": fixture.boxes(["root@mail.example.com"])})
	_decide(request) == _refused({"message.sender-unknown"})
	_decide_with(request, {"require_auth": false}) == _refused({"message.sender-unknown"})
	_decide_with(request, {"allow_local": true}) == _allowed({"made on the mail host"})
}

test_unknown_and_ambiguous if {
	facts := {"ambiguous": [{"kind": "duplicate-from", "field": "from", "text": "There are two."}]}
	_decide_with(fixture.message(fixture.local, facts), {"allow_local": true}).reject == {"message.ambiguous"}
}

test_what_people_are_told if {
	refusals := message.reject with input as fixture.written(["bob@example.com"], [])
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
	texts := {refusal.message | some refusal in refusals}
	texts == {concat(" ", [
		"alice may not send as bob@example.com, which is in the From field;",
		"use one of your own addresses, or ask the postmaster for the right",
	])}
	{[refusal.code, refusal.status] | some refusal in refusals} == {[550, "5.7.1"]}
}

test_nobody_is_not_local if {
	request := fixture.message(fixture.session(null), {})
	_decide_with(request, {"allow_local": true}) == _refused({"message.authentication-required"})
}

test_other_mail_is_not_judged if {
	facts := {
		"ambiguous": [{"kind": "duplicate-from", "field": "from", "text": "There are two."}],
		"unqualified": [{"name": "To", "index": 1, "pieces": ["bob", ""]}],
		"sender": fixture.boxes(["bob@example.net"]),
	}
	request := fixture.message(fixture.session(null), facts)
	every settings in [{}, {"allow_local": true}, {"sender": "refuse"}] {
		_decide_with(request, object.union(settings, {"require_auth": false})) == _allowed({"not a submission"})
	}
}
