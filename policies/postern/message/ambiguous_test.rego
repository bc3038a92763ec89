package postern.message_test

import data.postern.fixture_test as fixture
import data.postern.message

_odd(kind, field) := {"ambiguous": [{"kind": kind, "field": field, "text": "Mend it.", "mended": false}]}

test_fields_that_authorise_nothing[name] if {
	some name, [kind, field, wanted] in {
		"to": ["unparsable-to", "to", set()],
		"cc": ["unparsable-cc", "cc", set()],
		"reply-to": ["unparsable-reply-to", "reply-to", set()],
		"resent-to": ["unparsable-resent-to", "resent-to", set()],
		"to twice": ["duplicate-to", "to", set()],
		"subject twice": ["duplicate-subject", "subject", set()],
		"references twice": ["duplicate-references", "references", set()],
		"from": ["unparsable-from", "from", {"message.ambiguous"}],
		"resent-from": ["unparsable-resent-from", "resent-from", {"message.ambiguous"}],
		"from twice": ["duplicate-from", "from", {"message.ambiguous"}],
		"content type twice": ["duplicate-content-type", "content-type", {"message.ambiguous"}],
		"blank line": ["blank-line-in-header", "to", {"message.ambiguous"}],
	}
	request := fixture.message(fixture.session("alice"), _odd(kind, field))
	_decide(request).reject == wanted
	_decide_with(request, {"recipient_fields": "strict"}).reject == {"message.ambiguous"}
}

_unreadable(name, index, nobody) := {"unreadable": [{"name": name, "index": index, "nobody": nobody, "text": "It cannot be read."}]}

_notes_with(request, settings) := note if {
	note := message.note with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
}

test_unreadable_fields_are_noted if {
	request := fixture.message(fixture.session("alice"), _unreadable("To", 1, false))
	_notes_with(request, {}) == {{"rule": "message.unreadable", "field": "To", "text": "It cannot be read."}}
	_edits(request) == set()
	_notes_with(request, {"recipient_fields": "strict"}) == set()
	_notes_with(fixture.message(fixture.session(null), _unreadable("To", 1, false)), {"require_auth": false}) == set()
}

test_fields_that_name_nobody_are_removed if {
	cc := object.union(_unreadable("CC", 1, true), {"header": {"cc": [""], "to": ["x@example.net"], "date": ["x"], "message-id": ["y"]}})
	_edits(fixture.message(fixture.session("alice"), cc)) == {{"op": "remove_header", "name": "CC", "index": 1}}
	_edits_with(fixture.message(fixture.session("alice"), cc), {"recipient_fields": "strict"}) == set()
	to := object.union(_unreadable("To", 1, true), {"header": {"to": ["<>"], "date": ["x"], "message-id": ["y"]}})
	_edits(fixture.message(fixture.session("alice"), to)) == {{"op": "remove_header", "name": "To", "index": 1}, _to}
	both := object.union(_unreadable("To", 1, true), {"header": {"to": ["<>", "a@b.c"], "date": ["x"], "message-id": ["y"]}})
	_edits(fixture.message(fixture.session("alice"), both)) == {{"op": "remove_header", "name": "To", "index": 1}}
	bcc := object.union(_unreadable("Bcc", 1, true), {"header": {"bcc": [","], "to": ["x@example.net"], "date": ["x"], "message-id": ["y"]}})
	_edits(fixture.message(fixture.session("alice"), bcc)) == {{"op": "remove_header", "name": "Bcc"}}
	_edits_with(fixture.message(fixture.session(null), cc), {"require_auth": false}) == set()
}

test_words_for_recipients_pass_without_a_domain if {
	facts := {"unqualified": [{"name": "To", "index": 1, "pieces": ["Recipients", ""]}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide_with(request, {}) == _allowed({"own address"})
	_edits_with(request, {}) == set()
	_decide_with(request, {"recipient_fields": "strict"}).reject == {"message.address-without-domain"}
	from := fixture.message(fixture.session("alice"), {"unqualified": [{"name": "From", "index": 1, "pieces": ["alice", ""]}]})
	_decide_with(from, {}).reject == {"message.address-without-domain"}
}

test_several_authors_of_the_login if {
	facts := object.union(
		_odd("several-authors-no-sender", "from"),
		{"from": fixture.boxes(["alice@example.com", "help@example.com"])},
	)
	request := fixture.message(fixture.session("alice"), facts)
	_decide(request) == _allowed({"own address", "group's address"})
	_edits(request) == {{"op": "replace_header", "name": "Sender", "value": "alice@example.com"}}
	_decide_with(request, {"sender": "leave"}).reject == {"message.ambiguous"}
}

test_one_author_named_twice if {
	request := fixture.written(["alice@example.com", "ALICE@example.com"], [])
	_decide(request) == _allowed({"own address"})
	_edits(request) == set()
}

test_sender_that_cannot_be_read[kind] if {
	some kind in ["unparsable-sender", "empty-sender", "several-in-sender", "duplicate-sender"]
	request := fixture.message(fixture.session("alice"), _odd(kind, "sender"))
	_decide(request) == _allowed({"own address"})
	_edits(request) == {{"op": "replace_header", "name": "Sender", "value": "alice@example.com"}}
	_decide_with(request, {"sender": "refuse"}).reject == {"message.ambiguous"}
}

test_sender_without_domain if {
	facts := {"sender": [fixture.box("root")], "unqualified": [{"name": "Sender", "index": 1, "pieces": ["root", ""]}]}
	request := fixture.message(fixture.session("alice"), facts)
	_decide_with(request, {}) == _allowed({"own address"})
	_edits_with(request, {}) == {{"op": "replace_header", "name": "Sender", "value": "alice@example.com"}}
}
