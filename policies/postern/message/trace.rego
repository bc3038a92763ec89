package postern.message

import data.postern.lib.settings

# METADATA
# title: Loops
# description: |
#   A message that has gone through too many servers, or again and again through this one, is refused, whoever sends it.
# custom:
#   rfc: RFC 5321 section 6.3
reject contains {
	"rule": "message.too-many-hops",
	"code": 554,
	"status": "5.4.6",
	"message": sprintf("Routing loop detected: %d Received fields, and at most %d are allowed", [input.message.trace.received, settings.max_hops]),
} if {
	input.message.trace # absent in nearly all submissions
	input.message.trace.received > settings.max_hops
}

reject contains {
	"rule": "message.loop",
	"code": 554,
	"status": "5.4.6",
	"message": sprintf("Routing loop detected: the message has been at this server %d times", [input.message.trace.received_here]),
} if {
	input.message.trace
	input.message.trace.received_here >= 25
}

# METADATA
# title: Trace fields that only a server may add
# description: |
#   Return-Path is added at final delivery, so that any other one is false. Authentication-Results in the name of this server
#   would be believed by whoever trusts the server. Mail that is no submission keeps them, because filters in front of this one add them.
# custom:
#   rfc: RFC 5321 section 4.4, RFC 8601 section 5
edit contains {"op": "remove_header", "name": "Return-Path"} if input.message.header["return-path"]

edit contains {"op": "remove_header", "name": "Authentication-Results", "index": index} if {
	input.message.trace
	some index in input.message.trace.results_here
	_submission
}

note contains {"rule": "message.mbox-line-removed", "was": input.message.mbox_line} if input.message.mbox_line
