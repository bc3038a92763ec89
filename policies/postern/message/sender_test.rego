package postern.message_test

import data.postern.fixture_test as fixture
import data.postern.message

# The edits of Sender, and the rules that reject the message.
_sender(authors, sender, mode) := {"edit": edit, "reject": _decide_with(request, settings).reject} if {
	request := fixture.written(authors, sender)
	settings := {"domain": "example.com", "sender": mode}
	all := message.edit with input as request
		with data.senders as fixture.senders
		with data.groups as fixture.groups
		with data.settings as settings
	edit := {element | some element in all; element.name == "Sender"}
}

_left := {"edit": set(), "reject": set()}

_replaced := {
	"edit": {{"op": "replace_header", "name": "Sender", "value": "alice@example.com"}},
	"reject": set(),
}

_foreign := {"edit": set(), "reject": {"message.header-sender-not-yours"}}

test_sender[name] if {
	some name, [authors, sender, mode, wanted] in {
		"own, none": [["alice@example.com"], [], "fix", _left],
		"own, the same": [["alice@example.com"], ["alice@example.com"], "fix", _left],
		"own, the same, refuse": [["alice@example.com"], ["alice@example.com"], "refuse", _left],
		"own, the same, leave": [["alice@example.com"], ["alice@example.com"], "leave", _left],
		"own, another of hers": [["alice@example.com"], ["help@example.com"], "fix", _left],
		"own, unqualified": [["alice@example.com"], ["alice"], "fix", _left],
		"own, foreign": [["alice@example.com"], ["bob@example.com"], "fix", _replaced],
		"own, foreign, refuse": [["alice@example.com"], ["bob@example.com"], "refuse", _foreign],
		"own, foreign, leave": [["alice@example.com"], ["bob@example.com"], "leave", _foreign],
		"own, hers and foreign": [["alice@example.com"], ["alice@example.com", "bob@example.com"], "fix", _replaced],
		"own, on behalf only": [["alice@example.com"], ["ceo@example.com"], "fix", _replaced],
		"own, on behalf only, refuse": [["alice@example.com"], ["ceo@example.com"], "refuse", _foreign],
		"own, ended": [["alice@example.com"], ["old@example.com"], "fix", _replaced],
		"on behalf, none": [["ceo@example.com"], [], "fix", _replaced],
		"on behalf, none, refuse": [["ceo@example.com"], [], "refuse", _replaced],
		"on behalf, none, leave": [["ceo@example.com"], [], "leave", _left],
		"on behalf, own": [["ceo@example.com"], ["help@example.com"], "fix", _left],
		"on behalf, the same": [["ceo@example.com"], ["ceo@example.com"], "fix", _replaced],
		"on behalf, foreign": [["ceo@example.com"], ["bob@example.com"], "fix", _replaced],
		"on behalf, foreign, refuse": [["ceo@example.com"], ["bob@example.com"], "refuse", _foreign],
		"on behalf, foreign, leave": [["ceo@example.com"], ["bob@example.com"], "leave", _foreign],
		"several, own": [["alice@example.com", "ceo@example.com"], ["alice@example.com"], "fix", _left],
		"several, foreign": [["alice@example.com", "ceo@example.com"], ["bob@example.com"], "fix", _replaced],
		"several, none": [["alice@example.com", "help@example.com"], [], "fix", _replaced],
	}
	_sender(authors, sender, mode) == wanted
}

test_foreign_sender_never_passes[mode] if {
	some mode in ["refuse", "leave"]
	_decide_with(fixture.written(["alice@example.com"], ["bob@example.com"]), {"sender": mode}).allow == set()
}

test_no_own_address[name] if {
	some name, sender in {"added": [], "replaced": ["bob@example.com"]}
	request := object.union(fixture.written(["ceo@example.com"], sender), {"auth": {"login": "carol"}})
	rights := {"carol": ["@example.net", {"address": "ceo@example.com", "as": "on-behalf"}]}
	away := fixture.envelope(request, "", ["x@example.net"])
	refusals := message.reject with input as away with data.senders as rights with data.groups as {} with data.settings as {}
	fixture.names(refusals) == {"message.no-own-address"}
	edit := message.edit with input as away with data.senders as rights with data.groups as {} with data.settings as {}
	edit == set()
}

test_no_own_address_allows_nothing if {
	request := fixture.written(["ceo@example.com"], ["bob@example.net"])
	message.allow == set() with input as request
		with data.senders as {"alice": ["@example.com", {"address": "ceo@example.com", "as": "on-behalf"}]}
		with data.groups as {}
		with data.settings as {}
}
