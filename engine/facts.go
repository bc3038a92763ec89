package engine

// kind is the JSON type of a fact.
type kind uint8

const (
	text kind = iota
	integer
	boolean
	closed // object with the fields listed, and no others
	open   // object with any keys, such as header names
	list   // array of what item says
)

// fact is one entry of the input contract. The tree that contract returns is the single truth: the schema is made
// of it, lint asks it which facts may be absent, and a test holds the input builder against it.
type fact struct {
	name   string
	kind   kind
	doc    string
	from   Stage  // the first stage that has it; 0: all
	only   Stage  // the only stage that has it; 0: see from
	always bool   // present whenever its parent is, in the stages that have it
	fields []fact // of a closed object
	item   *fact  // element of a list; value of an open object
}

// at reports whether a transaction at stage s can carry the fact.
func (f *fact) at(s Stage) bool {
	if f.only != 0 {
		return f.only == s
	}
	return s >= f.from
}

// contract is version 3 of the policy input.
func contract() *fact {
	return &fact{kind: closed, always: true, doc: "What Postern tells a policy about a transaction. Version 3; it only grows. A fact that is not known is absent.", fields: []fact{
		{name: "version", kind: integer, always: true, doc: "Version of this contract: 3."},
		{name: "stage", kind: text, always: true, doc: `Stage that is decided: "connect", "mail", "rcpt" or "message".`},
		{name: "id", kind: text, always: true, doc: "Transaction id, the same in every log line."},
		{name: "now", kind: integer, always: true, doc: "Time of the decision in nanoseconds since 1970 UTC; use it where you would use time.now_ns()."},
		{name: "server", kind: closed, always: true, doc: "This side of the connection.", fields: []fact{
			{name: "hostname", kind: text, doc: "Name in the greeting."},
			{name: "listener", kind: text, doc: `Listener as it is configured, such as ":587".`},
			{name: "door", kind: text, doc: `"submission" or "milter".`},
		}},
		{name: "client", kind: closed, always: true, doc: "The peer.", fields: []fact{
			{name: "ip", kind: text, doc: "Address without port."},
			{name: "port", kind: integer, doc: "Port."},
			{name: "name", kind: text, doc: "Verified reverse name."},
			{name: "ehlo", kind: text, doc: "Argument of the last EHLO or HELO; absent before it."},
			{name: "recent_auth_failures", kind: integer, doc: "Failed logins from this address of late (IPv6: its /64), halved every half-life; submission only. Since version 2."},
			{name: "recent_login", kind: closed, doc: "Who has logged in at another server (POP, IMAP) from this address of late. It does not prove that the client is he. Since version 2.", fields: []fact{
				{name: "login", kind: text, always: true, doc: "Who it was."},
				{name: "age", kind: integer, always: true, doc: "Seconds since."},
			}},
		}},
		{name: "tls", kind: closed, doc: "Absent in the clear.", fields: []fact{
			{name: "version", kind: text, doc: `"1.2", "1.3".`},
			{name: "cipher", kind: text, doc: "Cipher suite."},
			{name: "sni", kind: text, doc: "Server name that the client asked for."},
			{name: "certificate", kind: closed, doc: "Verified client certificate.", fields: certificateFacts()},
		}},
		{name: "auth", kind: closed, doc: "Absent when nobody has authenticated.", fields: []fact{
			{name: "login", kind: text, always: true, doc: "Identity that was proved."},
			{name: "mechanism", kind: text, doc: "SASL mechanism."},
			{name: "backend", kind: text, doc: "Which backend vouched."},
			{name: "authzid", kind: text, doc: "Authorisation identity that was asked for, where it differs."},
			{name: "groups", kind: list, always: true, item: &fact{kind: text}, doc: "Groups of the login."},
			{name: "attributes", kind: open, always: true, item: &fact{kind: list, item: &fact{kind: text}}, doc: "Further attributes of the login."},
			{name: "certificate", kind: closed, fields: certificateFacts(),
				doc: "Client certificate that proved the login (EXTERNAL), verified or pinned. Since version 2."},
			{name: "recent_failures", kind: integer, doc: "Failed tries at this login of late, from wherever, halved every half-life; submission only. Since version 2."},
		}},
		{name: "envelope", kind: closed, from: StageMail, always: true, doc: "The SMTP envelope.", fields: []fact{
			{name: "from", kind: closed, from: StageMail, always: true, doc: "MAIL FROM.", fields: append(
				[]fact{{name: "null", kind: boolean, always: true, doc: "The null sender <>; the strings beside are then empty."}}, pathFacts()...)},
			{name: "to", kind: list, from: StageMail, always: true, doc: "Recipients accepted so far; at stage rcpt without the one asked about.",
				item: &fact{kind: closed, fields: pathFacts()}},
			{name: "recipient_count", kind: integer, from: StageMail, always: true,
				doc: "How many are in to; at stage rcpt cheaper than count(to), which has to be told all of them each time. Since version 3."},
		}},
		{name: "recipient", kind: closed, only: StageRcpt, always: true, doc: "RCPT TO that is asked about.", fields: pathFacts()},
		{name: "message", kind: closed, only: StageMessage, always: true, doc: "The message.", fields: messageFacts()},
		{name: "unknown", kind: list, always: true, item: &fact{kind: text}, doc: `Dotted paths of facts that this door cannot know, such as "client.port".`},
	}}
}

// certificateFacts are the facts of a client certificate.
func certificateFacts() []fact {
	return []fact{
		{name: "subject", kind: text, doc: "Subject (RFC 4514)."},
		{name: "issuer", kind: text, doc: "Issuer (RFC 4514)."},
		{name: "sans", kind: list, always: true, item: &fact{kind: text}, doc: `Alternative names: "dns:...", "email:...", "uri:...".`},
		{name: "sha256", kind: text, doc: "Fingerprint of the DER, lower-case hex."},
	}
}

// pathFacts are the facts of an envelope address.
func pathFacts() []fact {
	return append(addressFacts(), fact{name: "parameters", kind: open, always: true, item: &fact{kind: text},
		doc: "ESMTP parameters: upper-case keyword to value as it came. AUTH among them is the client's claim and proves nothing."})
}

// addressFacts are what every address has.
func addressFacts() []fact {
	return []fact{
		{name: "address", kind: text, always: true, doc: "As in SMTP: local part quoted where it must be, domain in lower case."},
		{name: "key", kind: text, always: true, doc: "Address in lower case, for comparing."},
		{name: "local", kind: text, always: true, doc: "Local part as written, without quoting."},
		{name: "domain", kind: text, always: true, doc: `Domain in lower case; "" where there is none.`},
	}
}

// mailboxes is a list of parsed header mailboxes.
func mailboxes(name, doc string) fact {
	item := append([]fact{{name: "name", kind: text, always: true, doc: "Display name, decoded."}}, addressFacts()...)
	return fact{name: name, kind: list, always: true, doc: doc, item: &fact{kind: closed, fields: item}}
}

// messageFacts are the facts of stage message.
func messageFacts() []fact {
	str := &fact{kind: text}
	return []fact{
		{name: "size", kind: integer, doc: "Octets of the whole message as it came; absent before its end is known."},
		{name: "headers", kind: list, always: true, doc: "Every header field in order.", item: &fact{kind: closed, fields: []fact{
			{name: "name", kind: text, always: true, doc: "Name as written."},
			{name: "key", kind: text, always: true, doc: "Name in lower case."},
			{name: "value", kind: text, always: true, doc: "Unfolded value."},
		}}},
		{name: "header", kind: open, always: true, item: &fact{kind: list, item: str}, doc: "Lower-case name to its values in order; look up here."},
		mailboxes("from", "Mailboxes of From."),
		mailboxes("sender", "Mailbox of Sender."),
		mailboxes("reply_to", "Mailboxes of Reply-To."),
		mailboxes("to", "Mailboxes of To."),
		mailboxes("cc", "Mailboxes of Cc."),
		mailboxes("bcc", "Mailboxes of Bcc."),
		mailboxes("resent", "Mailboxes of Resent-From and Resent-Sender."),
		{name: "unqualified", kind: list, always: true, doc: "Address fields in which a domain is missing.", item: &fact{kind: closed, fields: []fact{
			{name: "name", kind: text, always: true, doc: "Name of the field as written."},
			{name: "index", kind: integer, always: true, doc: "Which occurrence of that name, from 1."},
			{name: "pieces", kind: list, always: true, item: str, doc: `Value cut where a domain is missing: concat("@example.com", pieces) completes it.`},
		}}},
		{name: "ambiguous", kind: list, always: true, doc: "Reasons why two readers could take the header differently.", item: &fact{kind: closed, fields: []fact{
			{name: "kind", kind: text, always: true, doc: `Stable name, such as "duplicate-from".`},
			{name: "field", kind: text, always: true, doc: "Lower-case name of the field."},
			{name: "text", kind: text, always: true, doc: "For people: what is wrong and how to mend it."},
		}}},
		{name: "generated", kind: closed, always: true, doc: "Values made once a message, for a policy to add.", fields: []fact{
			{name: "message_id", kind: text, always: true, doc: "Ready for a Message-ID field."},
			{name: "date", kind: text, always: true, doc: "Ready for a Date field."},
		}},
		{name: "body", kind: closed, doc: "The body; held in memory only for a policy that reads it.", fields: []fact{
			{name: "text", kind: text, always: true, doc: "The body, at most 1 MiB; octets that are not UTF-8 are replaced."},
			{name: "truncated", kind: boolean, always: true, doc: "The body is longer."},
		}},
	}
}
