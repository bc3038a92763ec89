package postern.message_test

import data.postern.fixture_test as fixture

_irregular(fields) := {"canonical": [{"name": name, "index": 1, "pieces": pieces} | some name, pieces in fields]}

_replaced_from(value) := {{"op": "replace_header", "name": "From", "index": 1, "value": value}}

test_canonical_originators if {
	request := fixture.message(fixture.session("alice"), _irregular({"From": ["Al <alice@example.com>"]}))
	_edits(request) == _replaced_from("Al <alice@example.com>")
	_decide(request) == _allowed({"own address"})
	_edits_with(request, {"canonical_originators": "leave"}) == set()
	_decide_with(request, {"canonical_originators": "leave"}) == _allowed({"own address"})
	_edits_with(request, {"canonical_originators": "refuse"}) == set()
	_decide_with(request, {"canonical_originators": "refuse"}).reject == {"message.originator-form"}
}

test_canonical_is_completed_once if {
	facts := object.union(
		_irregular({"From": ["Al <alice", ">"]}),
		{"unqualified": [{"name": "From", "index": 1, "pieces": ["Al (x) <alice", ">"]}]},
	)
	request := fixture.message(fixture.session("alice"), facts)
	_edits(request) == _replaced_from("Al <alice@example.com>")
	_edits_with(request, {"domain": "example.com", "canonical_originators": "leave"}) == _replaced_from("Al (x) <alice@example.com>")
	_decide_with(request, {}).reject == {"message.address-without-domain"}
}

test_sender_that_is_replaced_is_not_rewritten if {
	facts := object.union(_irregular({"Sender": ["Bob <bob@example.com>"]}), {"sender": fixture.boxes(["bob@example.com"])})
	_edits(fixture.message(fixture.session("alice"), facts)) == {{"op": "replace_header", "name": "Sender", "value": "alice@example.com"}}
}

test_signed_originators[name] if {
	some name, [field, signature, wanted] in {
		"from": ["From", "v=1; d=example.com; h=to:from; b=x=", {"message.originator-signed"}],
		"from, not named": ["From", "v=1; d=example.com; h=to; b=x=", {"message.originator-signed"}],
		"sender": ["Sender", "v=1; h=From : SENDER\t: To; b=x", {"message.originator-signed"}],
		"sender, not named": ["Sender", "v=1; h=from:to; b=sender", set()],
	}
	facts := object.union(
		_irregular({field: ["Al <alice@example.com>"]}),
		{"header": {"dkim-signature": [signature], "to": ["x@example.net"], "date": ["x"], "message-id": ["y"]}},
	)
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request).reject == wanted
	_decide_with(request, {"canonical_originators": "leave"}).reject == set()
}

test_local_mail_is_rewritten if {
	request := fixture.message(fixture.local, _irregular({"From": ["Al <alice@example.com>"]}))
	_edits_with(request, {"allow_local": true}) == _replaced_from("Al <alice@example.com>")
}

test_mail_that_is_no_submission_is_not_rewritten if {
	facts := object.union(_irregular({"From": ["Al <alice@example.com>"]}), {"header": {"dkim-signature": ["v=1"]}})
	request := fixture.message(fixture.session(null), facts)
	every mode in ["rewrite", "refuse", "leave"] {
		settings := {"require_auth": false, "canonical_originators": mode}
		_edits_with(request, settings) == set()
		_decide_with(request, settings) == _allowed({"not a submission"})
	}
}

test_faults_that_the_form_mends if {
	facts := {"ambiguous": [{"kind": "undeclared-charset-in-from", "field": "from", "text": "Write UTF-8.", "mended": true}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request) == _allowed({"own address"})
	_decide_with(request, {"canonical_originators": "leave"}).reject == {"message.ambiguous"}
}

_showing(address, kind) := fixture.message(
	fixture.session("alice"),
	{"ambiguous": [{"kind": kind, "field": "from", "text": "The name is an address.", "address": address, "mended": false}]},
)

test_addresses_in_display_names[name] if {
	some name, [address, kind, settings, wanted] in {
		"own domain": ["ceo@example.com", "address-in-display-name", {}, set()],
		"own wildcard": ["x@example.org", "address-in-display-name", {}, set()],
		"end of an own domain": ["x@ample.com", "address-in-display-name", {}, {"message.ambiguous"}],
		"subdomain": ["x@sub.example.org", "address-in-display-name", {}, {"message.ambiguous"}],
		"foreign": ["ceo@example.net", "address-in-display-name", {}, {"message.ambiguous"}],
		"foreign, listed": ["ceo@example.net", "address-in-display-name", {"display_name_domains": ["Example.net"]}, set()],
		"foreign, kind allowed": ["ceo@example.net", "address-in-display-name", {"ambiguous_allow": ["address-in-display-name"]}, set()],
		"own domain, strict": ["ceo@example.com", "address-in-display-name", {"ambiguous_allow": []}, {"message.ambiguous"}],
		"via": ["ceo@example.net", "via-address-in-display-name", {}, set()],
		"disguised": ["ceo@example.com", "disguised-address-in-display-name", {}, {"message.ambiguous"}],
	}
	_decide_with(_showing(address, kind), settings).reject == wanted
}
