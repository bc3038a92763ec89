# METADATA
# scope: package
# title: RCPT TO
# description: |
#   How many recipients, and which kinds of addresses. If the server cannot tell who sends the mail, nothing is rejected
#   here, because mail of a local program would be lost.
# custom:
#   rfc: RFC 6409 section 5.1
package postern.rcpt

import data.postern.lib.settings

# METADATA
# title: Reasons to defer
# description: Recipients above the limit of one message. The client sends to them in another message.
# custom:
#   rfc: RFC 5321 section 4.5.3.1.10
defer contains {
	"rule": "rcpt.too-many",
	"code": 452,
	"status": "4.5.3",
	"message": sprintf("Too many recipients; send to at most %d at a time", [settings.max_recipients]),
} if {
	input.envelope.recipient_count >= settings.max_recipients
	input.auth.login
}

# METADATA
# title: Reasons to reject
# description: Why mail cannot be sent to this address, and what to do about it.
reject contains {
	"rule": "rcpt.without-domain",
	"code": 553,
	"status": "5.1.3",
	"message": sprintf(
		"The recipient address %s has no domain; write it in full, as in %s@example.com",
		[input.recipient.address, input.recipient.address],
	),
} if {
	input.recipient.domain == ""
	not input.recipient.unreadable # the mail server has taken it
	input.recipient.key != "postmaster" # RFC 5321 section 4.1.1.3
	settings.domain == ""
	input.auth.login
}

reject contains {
	"rule": "rcpt.address-literal",
	"code": 553,
	"status": "5.1.3",
	"message": "The recipient address has a network address in place of a domain; use one with a domain name",
} if {
	startswith(input.recipient.domain, "[")
	settings.allow_address_literals == false
	input.auth.login
}

reject contains {
	"rule": "rcpt.dotless-domain",
	"code": 553,
	"status": "5.1.3",
	"message": sprintf("The domain of the recipient address %s is not complete", [input.recipient.address]),
} if {
	domain := input.recipient.domain
	not contains(domain, ".")
	not startswith(domain, "[")
	domain != ""
	domain != settings.domain
	settings.allow_dotless_domains == false
	input.auth.login
}
