package postern.rcpt

# METADATA
# title: Old partner
# description: An example of a rule of one's own, beside the default ones. The company has left; nobody reads mail there.
reject contains {
	"rule": "rcpt.old-partner",
	"code": 550,
	"status": "5.1.10",
	"message": "old-partner.example is no more; write to new-partner.example",
} if {
	input.recipient.domain == "old-partner.example"
}
