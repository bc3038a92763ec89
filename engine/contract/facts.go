package contract

//go:generate go run ./internal/gen

// Version is that of the policy input. It only grows, and with it the facts.
const Version = 4

// Facts returns the declaration of the policy input. It is the only place where a fact is declared; docs/architecture.md has
// the recipe for adding one.
func Facts() *Fact {
	submission, milter := []string{"submission"}, []string{"milter"}
	return &Fact{Kind: Closed, Always: true, Doc: "What a policy can know about a transaction. Version 3; later versions only add facts. A fact that is not known is absent.", Fields: []Fact{
		{Name: "version", Kind: Integer, Always: true, Doc: "Version of the policy input: 4."},
		{Name: "stage", Kind: Text, Always: true, Doc: `Stage of the decision: "connect", "mail", "rcpt" or "message".`},
		{Name: "id", Kind: Text, Always: true, Doc: "Transaction id, the same in every log line."},
		{Name: "now", Kind: Integer, Always: true, Doc: "Time of the decision in nanoseconds since 1970 UTC. Use it instead of time.now_ns()."},
		{Name: "server", Kind: Closed, Always: true, Part: true, Type: "Server", Doc: "The server that the client talks to.", Fields: []Fact{
			{Name: "hostname", Kind: Text, Go: "Hostname string", Doc: "Name that the server greets with."},
			{Name: "listener", Kind: Text, Go: "Listener string", Doc: `Listener as configured, such as ":587".`},
			{Name: "door", Kind: Text, Go: "Door string", Doc: `Front end: "submission" or "milter".`},
		}},
		{Name: "client", Kind: Closed, Always: true, Part: true, Type: "Client", Doc: "The client of the connection.", Fields: []Fact{
			{Name: "ip", Kind: Text, Go: "IP netip.Addr", Doc: "Address of the client, without port."},
			{Name: "port", Kind: Integer, Go: "Port uint16", Doc: "Port of the client."},
			{Name: "name", Kind: Text, Go: "Name string", NeverAt: submission, Doc: "Name of the client's address in DNS, verified in both directions."},
			{Name: "ehlo", Kind: Text, Go: "EHLO string", Doc: "Argument of the last EHLO or HELO. Absent before it."},
			{Name: "recent_auth_failures", Kind: Integer, Since: 2, Go: "RecentAuthFailures *int", NeverAt: milter,
				Doc: "Recent failed logins from the client's address (IPv6: from its /64) over all connections. The count is halved every half-life.",
				See: "[Configuration](configuration.md#limits-of-failed-logins) says how it is counted."},
			{Name: "recent_login", Kind: Closed, Since: 2, Type: "RecentLogin", Go: "RecentLogin *RecentLogin", NeverAt: milter,
				Doc: "A recent login at another server (POP or IMAP) from the client's address. Many people may share an address, so it does not prove who the client is.",
				See: "[How to report logins](../how-to/recent-logins.md).", Fields: []Fact{
					{Name: "login", Kind: Text, Always: true, Go: "Login string", Doc: "Login that was used there."},
					{Name: "age", Kind: Integer, Always: true, Go: "Age time.Duration", Doc: "Seconds since that login."},
				}},
		}},
		{Name: "tls", Kind: Closed, Part: true, Type: "TLS", Doc: "Encryption of the connection. Absent without TLS.", Fields: []Fact{
			{Name: "version", Kind: Text, Go: "Version string", Doc: `Version of TLS: "1.2" or "1.3".`},
			{Name: "cipher", Kind: Text, Go: "Cipher string", Doc: "Cipher suite."},
			{Name: "sni", Kind: Text, Go: "SNI string", NeverAt: milter, Doc: "Server name that the client asked for."},
			certificate("Client", 0, nil, milter, "Verified client certificate."),
		}},
		{Name: "auth", Kind: Closed, Part: true, Type: "Auth", Doc: "The login of the session. Absent if the client has not authenticated.", Fields: []Fact{
			{Name: "login", Kind: Text, Always: true, Go: "Login string", Doc: "Identity that was proved, never the one that MAIL AUTH= claims."},
			{Name: "mechanism", Kind: Text, Go: "Mechanism string", Doc: "SASL mechanism."},
			{Name: "backend", Kind: Text, Go: "Backend string", NeverAt: milter, Doc: "Backend that checked the login."},
			{Name: "authzid", Kind: Text, Go: "AuthzID string", NeverAt: milter, Doc: "Authorisation identity that was asked for, if it differs from the login."},
			{Name: "groups", Kind: List, Always: true, Go: "Groups []string", NeverAt: milter, Item: &Fact{Kind: Text}, Doc: "Groups of the login."},
			{Name: "attributes", Kind: Open, Always: true, Go: "Attributes map[string][]string", NeverAt: milter,
				Item: &Fact{Kind: List, Item: &Fact{Kind: Text}}, Doc: "Further attributes of the login, from its backend."},
			certificate("Certificate", 2, milter, nil, "Client certificate that proved the login (EXTERNAL), verified or pinned."),
			{Name: "recent_failures", Kind: Integer, Since: 2, Go: "RecentFailures *int", NeverAt: milter,
				Doc: "Recent failed attempts to log in as this login, from any address. The count is halved every half-life."},
		}},
		{Name: "envelope", Kind: Closed, From: StageMail, Always: true, Doc: "The SMTP envelope.", Fields: []Fact{
			{Name: "from", Kind: Closed, From: StageMail, Always: true, Part: true, Doc: "Sender in MAIL FROM.", Fields: append(
				[]Fact{{Name: "null", Kind: Boolean, Always: true, Doc: "The sender is the null sender <>. The four strings are empty then."}}, pathFields()...)},
			{Name: "to", Kind: List, From: StageMail, Always: true, Part: true, Doc: "Recipients accepted so far. At stage rcpt without the one that is decided.",
				Item: &Fact{Kind: Closed, Shape: "recipient", Fields: pathFields()}},
			{Name: "recipient_count", Kind: Integer, From: StageMail, Always: true, Part: true, Since: 3,
				Doc: "Number of recipients in to. At stage rcpt it is cheaper than count(input.envelope.to), because the list is built, and logged, for every recipient."},
		}},
		{Name: "recipient", Kind: Closed, Only: StageRcpt, Always: true, Part: true, Shape: "recipient", Doc: "Recipient in RCPT TO that is decided.", Fields: pathFields()},
		{Name: "message", Kind: Closed, Only: StageMessage, Always: true, Doc: "The message.", Fields: messageFields()},
		{Name: "unknown", Kind: List, Always: true, Item: &Fact{Kind: Text}, Doc: `Dotted paths of facts that the front end cannot know, such as "client.port".`},
	}}
}

// certificate is the fact of a client certificate in a Go field of that name. never are the front ends that never know the
// certificate, and partly those that know its subject and issuer only.
func certificate(field string, since int, never, partly []string, doc string) Fact {
	return Fact{Name: "certificate", Kind: Closed, Since: since, NeverAt: never, Type: "Certificate", Go: field + " *Certificate", Shape: "certificate", Doc: doc, Fields: []Fact{
		{Name: "subject", Kind: Text, Go: "Subject string", Doc: "Subject (RFC 4514)."},
		{Name: "issuer", Kind: Text, Go: "Issuer string", Doc: "Issuer (RFC 4514)."},
		{Name: "sans", Kind: List, Always: true, Go: "SANs []string", NeverAt: partly, Item: &Fact{Kind: Text}, Doc: `Alternative names, such as "dns:...", "email:...", "uri:...".`},
		{Name: "sha256", Kind: Text, Go: "SHA256 string", NeverAt: partly, Doc: "SHA-256 of the DER, in lower-case hex."},
	}}
}

// pathFields are the facts of an envelope address.
func pathFields() []Fact {
	return append(addressFields(), Fact{Name: "unreadable", Kind: Text, Since: 4, Doc: "Address as the mail server gave it, if it cannot be read; the other facts of the address are then empty. At milter only."},
		Fact{Name: "parameters", Kind: Open, Always: true, Item: &Fact{Kind: Text},
			Doc: "ESMTP parameters: upper-case keyword to its value. AUTH is the client's claim and proves nothing."})
}

// addressFields are the facts that every address has.
func addressFields() []Fact {
	return []Fact{
		{Name: "address", Kind: Text, Always: true, Doc: "Address as in SMTP: local part quoted if necessary, domain in lower case."},
		{Name: "key", Kind: Text, Always: true, Doc: "The one spelling of the address, for comparisons: ASCII letters in lower case, domain in A-labels, Unicode NFC."},
		{Name: "local", Kind: Text, Always: true, Doc: "Local part as written, without quotes."},
		{Name: "domain", Kind: Text, Always: true, Doc: `Domain in lower case and A-labels (xn--); "" if there is none.`},
		{Name: "domain_unicode", Kind: Text, Since: 4, Doc: "Domain as people write it, if it is an internationalized one."},
	}
}

// blockMailboxes is the fact of an address field within a block of Resent- fields.
func blockMailboxes(name, doc string) Fact {
	f := mailboxes(name, doc)
	f.Part = false
	return f
}

// mailboxes is the fact of an address field of the header: its parsed mailboxes.
func mailboxes(name, doc string) Fact {
	fields := append([]Fact{{Name: "name", Kind: Text, Always: true, Doc: "Display name, decoded."}}, addressFields()...)
	return Fact{Name: name, Kind: List, Always: true, Part: true, Doc: doc, Item: &Fact{Kind: Closed, Shape: "mailbox", Fields: fields}}
}

// messageFields are the facts of stage message.
func messageFields() []Fact {
	str := &Fact{Kind: Text}
	return []Fact{
		{Name: "size", Kind: Integer, Part: true, Doc: "Size of the whole message as received, in octets. Absent until the end of the message is known."},
		{Name: "headers", Kind: List, Always: true, Part: true, Doc: "Every header field in order.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "name", Kind: Text, Always: true, Doc: "Name as written."},
			{Name: "key", Kind: Text, Always: true, Doc: "Name in lower case."},
			{Name: "value", Kind: Text, Always: true, Doc: "Unfolded value."},
		}}},
		{Name: "header", Kind: Open, Always: true, Part: true, Item: &Fact{Kind: List, Item: str}, Doc: "Header fields by lower-case name, each with its values in order. Look up fields here."},
		mailboxes("from", "Mailboxes of From. Like sender and resent, empty if the three together have more than 50: see ambiguous."),
		mailboxes("sender", "Mailbox of Sender."),
		mailboxes("reply_to", "Mailboxes of Reply-To."),
		mailboxes("to", "Mailboxes of To."),
		mailboxes("cc", "Mailboxes of Cc."),
		mailboxes("bcc", "Mailboxes of Bcc."),
		mailboxes("resent", "Mailboxes of Resent-From and Resent-Sender."),
		{Name: "resent_blocks", Kind: List, Always: true, Part: true, Since: 4, Doc: "Blocks of Resent- fields that stand together, the newest first (RFC 5322 section 3.6.6).", Item: &Fact{Kind: Closed, Fields: []Fact{
			blockMailboxes("from", "Mailboxes of Resent-From."),
			blockMailboxes("sender", "Mailbox of Resent-Sender."),
			blockMailboxes("to", "Mailboxes of Resent-To, Resent-Cc and Resent-Bcc."),
			{Name: "date", Kind: Text, Doc: "Value of Resent-Date."},
		}}},
		{Name: "unqualified", Kind: List, Always: true, Part: true, Doc: "Address fields in which an address has no domain.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "name", Kind: Text, Always: true, Doc: "Name of the field as written."},
			{Name: "index", Kind: Integer, Always: true, Doc: "Which occurrence of that name, from 1."},
			{Name: "pieces", Kind: List, Always: true, Item: str, Doc: `Value, cut where a domain is missing. concat("@example.com", pieces) completes it.`},
		}}},
		{Name: "unreadable", Kind: List, Always: true, Part: true, Since: 4, Doc: "Fields of recipients and answers (To, Cc, Bcc, Reply-To and the same of Resent) that cannot be read strictly.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "name", Kind: Text, Always: true, Doc: "Name of the field as written."},
			{Name: "index", Kind: Integer, Always: true, Doc: "Which occurrence of that name, from 1."},
			{Name: "nobody", Kind: Boolean, Always: true, Doc: "Whether it names nobody."},
			{Name: "text", Kind: Text, Always: true, Doc: "What is wrong, for people."},
		}}},
		{Name: "ambiguous", Kind: List, Always: true, Part: true, Doc: "Reasons why two programs could read the header differently.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "kind", Kind: Text, Always: true, Doc: `Stable name, such as "duplicate-from" or "too-many-originators".`},
			{Name: "field", Kind: Text, Always: true, Doc: "Lower-case name of the field."},
			{Name: "text", Kind: Text, Always: true, Doc: "What is wrong and how to mend it, for people."},
			{Name: "address", Kind: Text, Since: 4, Doc: "Address in lower case that a display name or comment shows. Only of kinds whose name has address-in-display-name."},
			{Name: "mended", Kind: Boolean, Always: true, Since: 4, Doc: "Whether the form of the field in message.canonical does not have the fault."},
		}}},
		{Name: "canonical", Kind: List, Always: true, Part: true, Since: 4, Doc: "Originator fields that not every program is sure to read alike, in a form that they do.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "name", Kind: Text, Always: true, Doc: "Name of the field as written."},
			{Name: "index", Kind: Integer, Always: true, Doc: "Which occurrence of that name, from 1."},
			{Name: "pieces", Kind: List, Always: true, Item: str, Doc: "Value with names in UTF-8 or encoded words of it, plain addresses and no comments, cut where a domain is missing."},
		}}},
		{Name: "unusable", Kind: List, Always: true, Part: true, Since: 4, Item: str,
			Doc: `Fields that are there without what they are for, by lower-case name: "date" without a time that can be read, "message-id" without an identifier.`},
		{Name: "trace", Kind: Closed, Part: true, Since: 4, Doc: "What trace fields say about the way of the message so far. Absent if there is neither a Received field nor an entry in results_here.", Fields: []Fact{
			{Name: "received", Kind: Integer, Always: true, Doc: "Number of Received fields. The one that this server adds itself is not counted."},
			{Name: "received_here", Kind: Integer, Always: true, Doc: "Number of Received fields whose by clause names server.hostname."},
			{Name: "results_here", Kind: List, Always: true, Item: &Fact{Kind: Integer},
				Doc: "Authentication-Results fields that name server.hostname, or that a program may read so: which occurrences, from 1."},
		}},
		{Name: "mbox_line", Kind: Text, Part: true, Since: 4,
			Doc: `Line of an mbox file that stood before the header, such as "From alice Mon Nov 30 10:00:00 2026". It is removed from the message. Absent without one; mail servers remove it before a milter sees it.`},
		{Name: "generated", Kind: Closed, Always: true, Part: true, Type: "Generated", Doc: "Values that are made once a message, so that a policy can add them.", Fields: []Fact{
			{Name: "message_id", Kind: Text, Always: true, Go: "MessageID string", Doc: "Ready for a Message-ID field."},
			{Name: "date", Kind: Text, Always: true, Go: "Date string", Doc: "Ready for a Date field."},
		}},
		{Name: "body", Kind: Closed, Part: true, Doc: "Body of the message. It is held in memory only for a policy that reads it.", Fields: []Fact{
			{Name: "text", Kind: Text, Always: true, Doc: "Text of the body, at most 1 MiB. Octets that are not UTF-8 are replaced."},
			{Name: "truncated", Kind: Boolean, Always: true, Doc: "Whether the body is longer than text."},
		}},
	}
}
