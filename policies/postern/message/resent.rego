package postern.message

import data.postern.lib.settings

# METADATA
# title: Messages sent again
# description: |
#   A person who sends somebody else's message again puts a block of Resent- fields in front of it. The newest block says who sends it; From and
#   Sender still say who wrote it, and leave as they came.
# custom:
#   rfc: RFC 5322 section 3.6.6
allow contains "own resent block" if {
	input.message.resent_blocks[0]
	input.auth.login
	_envelope_yours
	_resent
}

# Whether the message is somebody else's and its newest Resent block is the login's and whole.
_resent if {
	block := input.message.resent_blocks[0] # undefined for most messages
	settings.resent == "allow"
	input.auth.login
	count(_rights) < count(input.message.from)
	block.date
	count(block.to) > 0
	_block_yours(block)
}

_block_yours(block) if {
	count(block.from) == 1
	block.sender == []
	_signs(block.from[0])
}

_block_yours(block) if {
	count(block.from) > 0
	count(block.sender) == 1
	every mailbox in array.concat(block.from, block.sender) {
		_signs(mailbox)
	}
}

# Fields that say who wrote a message that is sent again.
_kept contains name if {
	_resent
	some name in ["from", "sender"]
}
