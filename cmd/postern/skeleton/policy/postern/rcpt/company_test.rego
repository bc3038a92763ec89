package postern.rcpt_test

import data.postern.rcpt

_company_rules(domain) := {refusal.rule | some refusal in refusals} if {
	refusals := rcpt.reject with input as {
		"unknown": [],
		"auth": {"login": "alice"},
		"envelope": {"to": [], "recipient_count": 0},
		"recipient": {"address": "x", "key": "x", "domain": domain},
	}
}

test_old_partner if {
	_company_rules("old-partner.example") == {"rcpt.old-partner"}
	_company_rules("new-partner.example") == set()
}
