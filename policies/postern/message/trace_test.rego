package postern.message_test

import data.postern.fixture_test as fixture
import data.postern.message

_traced(session, facts) := fixture.message(session, {"trace": object.union({"received": 0, "received_here": 0, "results_here": []}, facts)})

_of_alice(facts) := _traced(fixture.session("alice"), facts)

test_hops[name] if {
	some name, [facts, settings, wanted] in {
		"none": [{}, {}, set()],
		"most": [{"received": 100}, {}, set()],
		"too many": [{"received": 101}, {}, {"message.too-many-hops"}],
		"most, by the setting": [{"received": 3}, {"max_hops": 3}, set()],
		"too many, by the setting": [{"received": 4}, {"max_hops": 3}, {"message.too-many-hops"}],
		"here": [{"received": 24, "received_here": 24}, {}, set()],
		"here too often": [{"received": 25, "received_here": 25}, {}, {"message.loop"}],
	}
	_decide_with(_of_alice(facts), settings).reject == wanted
}

test_loop_reply if {
	refusals := message.reject with input as _of_alice({"received": 101, "received_here": 25})
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as {}
	{[refusal.code, refusal.status] | some refusal in refusals} == {[554, "5.4.6"]}
	count(refusals) == 2
}

test_loops_of_mail_that_is_no_submission if {
	request := _traced(fixture.session(null), {"received": 101})
	_decide_with(request, {"require_auth": false}).reject == {"message.too-many-hops"}
}

test_return_path if {
	gone := {{"op": "remove_header", "name": "Return-Path"}}
	field := {"header": {"return-path": ["<alice@example.com>"]}}
	_edits(object.union(_plain, {"message": field})) == gone
	inbound := object.union(fixture.message(fixture.session(null), {}), {"message": field})
	_edits_with(inbound, {"require_auth": false}) == gone
}

test_authentication_results if {
	facts := {"results_here": [1, 3]}
	gone := {{"op": "remove_header", "name": "Authentication-Results", "index": index} | some index in [1, 3]}
	_edits(_of_alice(facts)) == gone
	_edits_with(_traced(fixture.local, facts), {"allow_local": true}) == gone
	_edits_with(_traced(fixture.session(null), facts), {"require_auth": false}) == set()
}

_notes(request) := note if {
	note := message.note with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as fixture.settings
}

test_mbox_line if {
	line := "From alice Mon Nov 30 10:00:00 2026"
	_notes(object.union(_plain, {"message": {"mbox_line": line}})) == {{"rule": "message.mbox-line-removed", "was": line}}
	_notes(_plain) == set()
}
