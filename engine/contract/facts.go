package contract

//go:generate go run ./internal/gen

// Version is that of the policy input. It only grows, and with it the facts.
const Version = 3

// Facts returns the declaration of the policy input. It is the only place where a fact is declared; docs/architecture.md has
// the recipe for adding one.
func Facts() *Fact {
	return &Fact{Kind: Closed, Always: true, Doc: "What Postern tells a policy about a transaction. Version 3; it only grows. A fact that is not known is absent.", Fields: []Fact{
		{Name: "version", Kind: Integer, Always: true, Doc: "Version of this contract: 3."},
		{Name: "stage", Kind: Text, Always: true, Doc: `Stage that is decided: "connect", "mail", "rcpt" or "message".`},
		{Name: "id", Kind: Text, Always: true, Doc: "Transaction id, the same in every log line."},
		{Name: "now", Kind: Integer, Always: true, Doc: "Time of the decision in nanoseconds since 1970 UTC; use it where you would use time.now_ns()."},
		{Name: "server", Kind: Closed, Always: true, Part: true, Type: "Server", Doc: "This side of the connection.", Fields: []Fact{
			{Name: "hostname", Kind: Text, Go: "Hostname string", Doc: "Name in the greeting."},
			{Name: "listener", Kind: Text, Go: "Listener string", Doc: `Listener as it is configured, such as ":587".`},
			{Name: "door", Kind: Text, Go: "Door string", Doc: `"submission" or "milter".`},
		}},
		{Name: "client", Kind: Closed, Always: true, Part: true, Type: "Client", Doc: "The peer.", Fields: []Fact{
			{Name: "ip", Kind: Text, Go: "IP netip.Addr", Doc: "Address without port."},
			{Name: "port", Kind: Integer, Go: "Port uint16", Doc: "Port."},
			{Name: "name", Kind: Text, Go: "Name string", Doc: "Verified reverse name."},
			{Name: "ehlo", Kind: Text, Go: "EHLO string", Doc: "Argument of the last EHLO or HELO; absent before it."},
			{Name: "recent_auth_failures", Kind: Integer, Since: 2, Go: "RecentAuthFailures *int",
				Doc: "Failed logins from this address of late (IPv6: its /64), halved every half-life; submission only."},
			{Name: "recent_login", Kind: Closed, Since: 2, Type: "RecentLogin", Go: "RecentLogin *RecentLogin",
				Doc: "Who has logged in at another server (POP, IMAP) from this address of late. It does not prove that the client is he.", Fields: []Fact{
					{Name: "login", Kind: Text, Always: true, Go: "Login string", Doc: "Who it was."},
					{Name: "age", Kind: Integer, Always: true, Go: "Age time.Duration", Doc: "Seconds since."},
				}},
		}},
		{Name: "tls", Kind: Closed, Part: true, Type: "TLS", Doc: "Absent in the clear.", Fields: []Fact{
			{Name: "version", Kind: Text, Go: "Version string", Doc: `"1.2", "1.3".`},
			{Name: "cipher", Kind: Text, Go: "Cipher string", Doc: "Cipher suite."},
			{Name: "sni", Kind: Text, Go: "SNI string", Doc: "Server name that the client asked for."},
			certificate("Client", 0, "Verified client certificate."),
		}},
		{Name: "auth", Kind: Closed, Part: true, Type: "Auth", Doc: "Absent when nobody has authenticated.", Fields: []Fact{
			{Name: "login", Kind: Text, Always: true, Go: "Login string", Doc: "Identity that was proved."},
			{Name: "mechanism", Kind: Text, Go: "Mechanism string", Doc: "SASL mechanism."},
			{Name: "backend", Kind: Text, Go: "Backend string", Doc: "Which backend vouched."},
			{Name: "authzid", Kind: Text, Go: "AuthzID string", Doc: "Authorisation identity that was asked for, where it differs."},
			{Name: "groups", Kind: List, Always: true, Go: "Groups []string", Item: &Fact{Kind: Text}, Doc: "Groups of the login."},
			{Name: "attributes", Kind: Open, Always: true, Go: "Attributes map[string][]string",
				Item: &Fact{Kind: List, Item: &Fact{Kind: Text}}, Doc: "Further attributes of the login."},
			certificate("Certificate", 2, "Client certificate that proved the login (EXTERNAL), verified or pinned."),
			{Name: "recent_failures", Kind: Integer, Since: 2, Go: "RecentFailures *int",
				Doc: "Failed tries at this login of late, from wherever, halved every half-life; submission only."},
		}},
		{Name: "envelope", Kind: Closed, From: StageMail, Always: true, Doc: "The SMTP envelope.", Fields: []Fact{
			{Name: "from", Kind: Closed, From: StageMail, Always: true, Part: true, Doc: "MAIL FROM.", Fields: append(
				[]Fact{{Name: "null", Kind: Boolean, Always: true, Doc: "The null sender <>; the strings beside are then empty."}}, pathFields()...)},
			{Name: "to", Kind: List, From: StageMail, Always: true, Part: true, Doc: "Recipients accepted so far; at stage rcpt without the one asked about.",
				Item: &Fact{Kind: Closed, Shape: "recipient", Fields: pathFields()}},
			{Name: "recipient_count", Kind: Integer, From: StageMail, Always: true, Part: true, Since: 3,
				Doc: "How many are in to; at stage rcpt cheaper than count(to), which has to be told all of them each time."},
		}},
		{Name: "recipient", Kind: Closed, Only: StageRcpt, Always: true, Part: true, Shape: "recipient", Doc: "RCPT TO that is asked about.", Fields: pathFields()},
		{Name: "message", Kind: Closed, Only: StageMessage, Always: true, Doc: "The message.", Fields: messageFields()},
		{Name: "unknown", Kind: List, Always: true, Item: &Fact{Kind: Text}, Doc: `Dotted paths of facts that this door cannot know, such as "client.port".`},
	}}
}

// certificate is the fact of a client certificate, in a Go field of that name.
func certificate(field string, since int, doc string) Fact {
	return Fact{Name: "certificate", Kind: Closed, Since: since, Type: "Certificate", Go: field + " *Certificate", Shape: "certificate", Doc: doc, Fields: []Fact{
		{Name: "subject", Kind: Text, Go: "Subject string", Doc: "Subject (RFC 4514)."},
		{Name: "issuer", Kind: Text, Go: "Issuer string", Doc: "Issuer (RFC 4514)."},
		{Name: "sans", Kind: List, Always: true, Go: "SANs []string", Item: &Fact{Kind: Text}, Doc: `Alternative names: "dns:...", "email:...", "uri:...".`},
		{Name: "sha256", Kind: Text, Go: "SHA256 string", Doc: "Fingerprint of the DER, lower-case hex."},
	}}
}

// pathFields are the facts of an envelope address.
func pathFields() []Fact {
	return append(addressFields(), Fact{Name: "parameters", Kind: Open, Always: true, Item: &Fact{Kind: Text},
		Doc: "ESMTP parameters: upper-case keyword to value as it came. AUTH among them is the client's claim and proves nothing."})
}

// addressFields are the facts that every address has.
func addressFields() []Fact {
	return []Fact{
		{Name: "address", Kind: Text, Always: true, Doc: "As in SMTP: local part quoted where it must be, domain in lower case."},
		{Name: "key", Kind: Text, Always: true, Doc: "Address in lower case, for comparing."},
		{Name: "local", Kind: Text, Always: true, Doc: "Local part as written, without quoting."},
		{Name: "domain", Kind: Text, Always: true, Doc: `Domain in lower case; "" where there is none.`},
	}
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
		{Name: "size", Kind: Integer, Part: true, Doc: "Octets of the whole message as it came; absent before its end is known."},
		{Name: "headers", Kind: List, Always: true, Part: true, Doc: "Every header field in order.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "name", Kind: Text, Always: true, Doc: "Name as written."},
			{Name: "key", Kind: Text, Always: true, Doc: "Name in lower case."},
			{Name: "value", Kind: Text, Always: true, Doc: "Unfolded value."},
		}}},
		{Name: "header", Kind: Open, Always: true, Part: true, Item: &Fact{Kind: List, Item: str}, Doc: "Lower-case name to its values in order; look up here."},
		mailboxes("from", "Mailboxes of From."),
		mailboxes("sender", "Mailbox of Sender."),
		mailboxes("reply_to", "Mailboxes of Reply-To."),
		mailboxes("to", "Mailboxes of To."),
		mailboxes("cc", "Mailboxes of Cc."),
		mailboxes("bcc", "Mailboxes of Bcc."),
		mailboxes("resent", "Mailboxes of Resent-From and Resent-Sender."),
		{Name: "unqualified", Kind: List, Always: true, Part: true, Doc: "Address fields in which a domain is missing.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "name", Kind: Text, Always: true, Doc: "Name of the field as written."},
			{Name: "index", Kind: Integer, Always: true, Doc: "Which occurrence of that name, from 1."},
			{Name: "pieces", Kind: List, Always: true, Item: str, Doc: `Value cut where a domain is missing: concat("@example.com", pieces) completes it.`},
		}}},
		{Name: "ambiguous", Kind: List, Always: true, Part: true, Doc: "Reasons why two readers could take the header differently.", Item: &Fact{Kind: Closed, Fields: []Fact{
			{Name: "kind", Kind: Text, Always: true, Doc: `Stable name, such as "duplicate-from".`},
			{Name: "field", Kind: Text, Always: true, Doc: "Lower-case name of the field."},
			{Name: "text", Kind: Text, Always: true, Doc: "For people: what is wrong and how to mend it."},
		}}},
		{Name: "generated", Kind: Closed, Always: true, Part: true, Type: "Generated", Doc: "Values made once a message, for a policy to add.", Fields: []Fact{
			{Name: "message_id", Kind: Text, Always: true, Go: "MessageID string", Doc: "Ready for a Message-ID field."},
			{Name: "date", Kind: Text, Always: true, Go: "Date string", Doc: "Ready for a Date field."},
		}},
		{Name: "body", Kind: Closed, Part: true, Doc: "The body; held in memory only for a policy that reads it.", Fields: []Fact{
			{Name: "text", Kind: Text, Always: true, Doc: "The body, at most 1 MiB; octets that are not UTF-8 are replaced."},
			{Name: "truncated", Kind: Boolean, Always: true, Doc: "The body is longer."},
		}},
	}
}
