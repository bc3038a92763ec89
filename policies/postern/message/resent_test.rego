package postern.message_test

import data.postern.fixture_test as fixture

_block(from, sender, to, date) := {"from": fixture.boxes(from), "sender": fixture.boxes(sender), "to": fixture.boxes(to), "date": date}

# bob's message that alice sends again.
_again(blocks) := fixture.message(fixture.session("alice"), {
	"from": fixture.boxes(["bob@example.com"]),
	"sender": fixture.boxes(["carol@example.net"]),
	"resent": [mailbox | some block in blocks; some mailbox in array.concat(block.from, block.sender)],
	"resent_blocks": blocks,
})

_own := _block(["alice@example.com"], [], ["x@example.net"], "Mon, 01 Jun 2026 11:59:00 +0000")

_older := _block(["carol@example.net"], [], ["alice@example.com"], "Sun, 31 May 2026 11:59:00 +0000")

test_resent_by_the_login if {
	every blocks in [[_own], [_own, _older]] {
		_decide(_again(blocks)) == _allowed({"own resent block"})
		_edits(_again(blocks)) == set()
		_decide_with(_again(blocks), {"sender": "refuse"}) == _allowed({"own resent block"})
		_decide_with(_again(blocks), {"resent": "refuse"}).allow == set()
		"message.from-not-yours" in _decide_with(_again(blocks), {"resent": "refuse"}).reject
	}
}

test_resent_gives_no_right[name] if {
	some name, blocks in {
		"somebody else's block in front": [_older, _own],
		"none": [],
		"of somebody else": [_older],
		"no date": [object.remove(_own, ["date"])],
		"no recipient": [_block(["alice@example.com"], [], [], "today")],
		"no author": [_block([], ["alice@example.com"], ["x@example.net"], "today")],
		"two authors": [_block(["alice@example.com", "help@example.com"], [], ["x@example.net"], "today")],
		"another author": [_block(["alice@example.com", "bob@example.com"], ["alice@example.com"], ["x@example.net"], "today")],
		"another sender": [_block(["alice@example.com"], ["bob@example.com"], ["x@example.net"], "today")],
		"on behalf": [_block(["ceo@example.com"], [], ["x@example.net"], "today")],
	}
	decision := _decide(_again(blocks))
	decision.allow == set()
	"message.from-not-yours" in decision.reject
}

test_resent_by_several if {
	block := _block(["alice@example.com", "help@example.com"], ["alice@example.com"], ["x@example.net"], "today")
	_decide(_again([block])) == _allowed({"own resent block"})
}

test_resent_needs_a_login if {
	request := object.remove(_again([_own]), ["auth"])
	_decide(request).allow == set()
}

test_envelope_of_a_resent_message if {
	_decide(fixture.envelope(_again([_own]), "bob@example.com", ["x@example.net"])).reject == {"message.sender-not-yours"}
}

test_from_that_is_kept_is_not_rewritten if {
	odd := {"message": {"canonical": [{"name": "From", "index": 1, "pieces": ["Bob <bob@example.com>"]}], "header": {"dkim-signature": ["v=1"]}}}
	request := object.union(_again([_own]), odd)
	_edits(request) == set()
	_decide(request) == _allowed({"own resent block"})
}

test_own_message_with_an_own_block if {
	request := object.union(
		fixture.written(["alice@example.com"], []),
		{"message": {"resent": fixture.boxes(["alice@example.com"]), "resent_blocks": [_own]}},
	)
	_decide(request) == _allowed({"own address"})
}

# Resent fields of others in an own message give it away.
test_own_message_with_a_foreign_block if {
	request := object.union(
		fixture.written(["alice@example.com"], []),
		{"message": {"resent": fixture.boxes(["carol@example.net"]), "resent_blocks": [_older]}},
	)
	_decide(request) == _refused({"message.resent-not-yours"})
}
