package postern.message_test

import data.postern.fixture_test as fixture
import data.postern.message

_edits(request) := _edits_with(request, fixture.settings)

_edits_with(request, settings) := edit if {
	edit := message.edit with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
}

_plain := fixture.written(["alice@example.com"], [])

_date := {"op": "add_header", "name": "Date", "value": "Mon, 01 Jun 2026 12:00:00 +0000"}

_message_id := {"op": "add_header", "name": "Message-ID", "value": "<generated@mail.example.com>"}

_to := {"op": "add_header", "name": "To", "value": "undisclosed-recipients:;"}

test_whole_message_is_left if _edits(_plain) == set()

test_date if _edits(fixture.without(_plain, {"date"})) == {_date}

test_message_id if _edits(fixture.without(_plain, {"message-id"})) == {_message_id}

_unusable(session, keys, header) := object.union(fixture.message(session, {"unusable": keys}), {"message": {"header": header}})

_new_date := {"op": "replace_header", "name": "Date", "value": "Mon, 01 Jun 2026 12:00:00 +0000"}

_new_message_id := {"op": "replace_header", "name": "Message-ID", "value": "<generated@mail.example.com>"}

test_unusable_fields[name] if {
	some name, [keys, settings, edits, rejects] in {
		"date": [["date"], {}, {_new_date}, set()],
		"message-id": [["message-id"], {}, {_new_message_id}, set()],
		"both": [["date", "message-id"], {}, {_new_date, _new_message_id}, set()],
		"date, refused": [["date"], {"date": "refuse"}, set(), {"message.date-unreadable"}],
		"message-id, refused": [["message-id"], {"message_id": "refuse"}, set(), {"message.message-id-empty"}],
		"date, left": [["date"], {"date": "leave", "message_id": "refuse"}, set(), set()],
		"message-id, left": [["message-id"], {"message_id": "leave", "date": "refuse"}, set(), set()],
	}
	request := _unusable(fixture.session("alice"), keys, {})
	_edits_with(request, settings) == edits
	_decide_with(request, settings).reject == rejects
}

test_unusable_fields_that_are_signed_are_left if {
	signed := {"dkim-signature": ["v=1; h=from:date; b=x"]}
	request := _unusable(fixture.session("alice"), ["date", "message-id"], signed)
	_edits(request) == {_new_message_id}
	all_signed := {"dkim-signature": ["v=1; h=from:date:Message-ID; b=x"]}
	_edits(_unusable(fixture.session("alice"), ["date", "message-id"], all_signed)) == set()
	_decide(request).reject == set()
}

test_unusable_fields_are_noted if {
	header := {"date": ["yesterday"], "message-id": ["<>"], "dkim-signature": ["h=date"]}
	_notes(_unusable(fixture.session("alice"), ["date", "message-id"], header)) == {
		{"rule": "message.date-unreadable", "was": ["yesterday"], "signed": true},
		{"rule": "message.message-id-empty", "was": ["<>"], "signed": false},
	}
	_notes(_unusable(fixture.session(null), ["date", "message-id"], header)) == set()
}

test_unusable_fields_of_mail_that_is_no_submission if {
	request := _unusable(fixture.session(null), ["date", "message-id"], {})
	every mode in ["fix", "refuse"] {
		settings := {"require_auth": false, "date": mode, "message_id": mode}
		_edits_with(request, settings) == set()
		_decide_with(request, settings) == _allowed({"not a submission"})
	}
	local := _unusable(fixture.local, ["date"], {})
	_edits_with(local, {"allow_local": true}) == {_new_date}
}

test_all_at_once if _edits(fixture.without(_plain, {"date", "message-id", "to"})) == {_date, _message_id, _to}

test_nothing_generated if {
	request := json.patch(fixture.without(_plain, {"date", "message-id"}), [{"op": "remove", "path": "/message/generated"}])
	_edits(request) == set()
}

test_destination if {
	bare := fixture.without(_plain, {"to"})
	_edits(bare) == {_to}
	_edits(object.union(bare, {"message": {"header": {"cc": ["bob@example.net"]}}})) == set()
	_edits(object.union(bare, {"message": {"header": {"bcc": ["bob@example.net"]}}})) == {
		_to,
		{"op": "remove_header", "name": "Bcc"},
	}
}

test_bcc if {
	_edits(object.union(_plain, {"message": {"header": {"bcc": [""]}}})) == {{"op": "remove_header", "name": "Bcc"}}
	_edits(object.union(_plain, {"message": {"header": {"resent-bcc": ["x@y.z"]}}})) == {{"op": "remove_header", "name": "Resent-Bcc"}}
}

test_unqualified_header if {
	request := fixture.message(fixture.session("alice"), {"unqualified": [
		{"name": "To", "index": 1, "pieces": ["Bob <bob", ">, carol@example.net, dave", ""]},
		{"name": "cc", "index": 2, "pieces": ["erin", ""]},
		{"name": "BCC", "index": 1, "pieces": ["eve", ""]},
		{"name": "Sender", "index": 1, "pieces": ["alice", ""]},
	]})
	wanted := {
		{"op": "replace_header", "name": "To", "index": 1, "value": "Bob <bob@example.com>, carol@example.net, dave@example.com"},
		{"op": "replace_header", "name": "cc", "index": 2, "value": "erin@example.com"},
		{"op": "replace_header", "name": "Sender", "index": 1, "value": "alice@example.com"},
	}
	_edits(request) == wanted
	_edits_with(request, {}) == set()
}

test_sender_is_replaced_once if {
	request := fixture.message(fixture.session("alice"), {
		"sender": fixture.boxes(["bob"]),
		"unqualified": [{"name": "Sender", "index": 1, "pieces": ["bob", ""]}],
	})
	_edits(request) == {{"op": "replace_header", "name": "Sender", "value": "alice@example.com"}}
}

test_unqualified_envelope if {
	request := fixture.envelope(_plain, "alice", ["bob", "carol@example.net"])
	wanted := {
		{"op": "change_sender", "address": "alice@example.com"},
		{"op": "remove_recipient", "address": "bob"},
		{"op": "add_recipient", "address": "bob@example.com"},
	}
	_edits(request) == wanted
	_edits_with(request, {}) == set()
}

test_null_sender_is_not_completed if _edits(fixture.envelope(_plain, "", ["carol@example.net"])) == set()

test_local_mail_is_repaired if {
	request := fixture.without(fixture.message(fixture.local, {}), {"date"})
	_edits_with(request, {"allow_local": true}) == {_date}
	_edits_with(request, {}) == set()
}

test_other_mail_is_left if {
	facts := {"unqualified": [{"name": "From", "index": 1, "pieces": ["bob", ""]}], "sender": fixture.boxes(["bob@example.net"])}
	bare := fixture.without(fixture.message(fixture.session(null), facts), {"date", "message-id", "to"})
	blind := object.union(bare, {"message": {"header": {"bcc": ["x@example.net"], "resent-bcc": ["x@example.net"]}}})
	request := fixture.envelope(blind, "alice", ["bob"])
	_edits_with(request, {"require_auth": false, "domain": "example.com"}) == set()
	_edits_with(request, {"require_auth": false, "domain": "example.com", "allow_local": true}) == set()
}

test_envelope_that_cannot_be_read_is_left if {
	odd := {"address": "", "key": "", "local": "", "domain": "", "null": false, "unreadable": "a b@@", "parameters": {}}
	request := object.union(_plain, {"envelope": {"from": odd, "to": [odd], "recipient_count": 1}})
	_edits(request) == set()
}
