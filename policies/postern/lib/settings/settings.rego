# METADATA
# scope: package
# title: Settings
# description: |
#   The operator's settings, each with a default. A value of the wrong type counts as the default, or as the stricter
#   value if the default is less strict.
package postern.lib.settings

# METADATA
# title: Default domain
# description: Completes addresses without a domain, in the envelope and in the header. With "" they are rejected.
# custom:
#   rfc: RFC 6409 section 5.1
default domain := ""

domain := lower(trim_prefix(data.settings.domain, "@")) if is_string(data.settings.domain)

# METADATA
# title: Authentication required
# description: false accepts mail of unauthenticated clients unchanged, for a filter that also sees inbound mail.
# custom:
#   rfc: RFC 6409 section 4.3
default require_auth := true

require_auth := false if data.settings.require_auth == false

# METADATA
# title: Local mail allowed
# description: true accepts and repairs mail whose sender the server cannot know, such as mail made on its own host.
default allow_local := false

allow_local if data.settings.allow_local == true

# METADATA
# title: Null sender allowed
# description: Whether an authenticated login may use MAIL FROM:<>, which notifications need.
# custom:
#   rfc: RFC 5321 section 4.5.5
default null_sender := true

null_sender := false if data.settings.null_sender == false

# METADATA
# title: Subaddress separator
# description: The character between alice and news in alice+news@example.com; "" turns subaddresses off.
# custom:
#   rfc: RFC 5233
default subaddress_separator := "+"

subaddress_separator := data.settings.subaddress_separator if is_string(data.settings.subaddress_separator)

subaddress_separator := "" if {
	separator := data.settings.subaddress_separator
	not is_string(separator)
}

# METADATA
# title: Recipient limit
# description: The largest number of recipients of one message.
# custom:
#   rfc: RFC 5321 section 4.5.3.1.8
default max_recipients := 100

max_recipients := data.settings.max_recipients if {
	is_number(data.settings.max_recipients)
	data.settings.max_recipients >= 1
}

# METADATA
# title: Hop limit
# description: The largest number of Received fields of a message.
# custom:
#   rfc: RFC 5321 section 6.3
default max_hops := 100

max_hops := data.settings.max_hops if {
	is_number(data.settings.max_hops)
	data.settings.max_hops >= 1
}

# METADATA
# title: Treatment of an unreadable Date
# description: |
#   "fix" replaces a Date that is empty or cannot be read; "refuse" rejects the message; "leave" leaves the field. A missing Date is
#   always added.
# custom:
#   rfc: RFC 6409 section 8.2
default date := "fix"

date := data.settings.date if data.settings.date in {"refuse", "leave"}

# METADATA
# title: Treatment of an empty Message-ID
# description: |
#   "fix" replaces a Message-ID that is empty; "refuse" rejects the message; "leave" leaves the field. A missing Message-ID is
#   always added.
# custom:
#   rfc: RFC 6409 section 8.3
default message_id := "fix"

message_id := data.settings.message_id if data.settings.message_id in {"refuse", "leave"}

# METADATA
# title: Address literals allowed
# description: Whether addresses such as alice@[192.0.2.1] are accepted.
# custom:
#   rfc: RFC 5321 section 4.1.3
default allow_address_literals := false

allow_address_literals if data.settings.allow_address_literals == true

# METADATA
# title: Dotless domains allowed
# description: Whether domains without a dot, as in alice@localhost, are accepted. settings.domain always is.
# custom:
#   rfc: RFC 5321 section 2.3.5
default allow_dotless_domains := false

allow_dotless_domains if data.settings.allow_dotless_domains == true

# METADATA
# title: Treatment of Sender
# description: |
#   "fix" adds or replaces Sender if it must name the login; "refuse" adds it, but rejects one that names another user;
#   "leave" adds nothing and rejects one that names another user.
# custom:
#   rfc: RFC 6409 section 8.1
default sender := "fix"

sender := data.settings.sender if data.settings.sender in {"refuse", "leave"}

# METADATA
# title: Attributes that hold sender addresses
# description: |
#   Names of attributes from the authentication backend whose values are addresses of the login. List only attributes that
#   users cannot change themselves.
# custom:
#   rfc: RFC 6409 section 6.1
default sender_attributes := []

sender_attributes := [name |
	some name in data.settings.sender_attributes
	is_string(name)
] if {
	is_array(data.settings.sender_attributes)
}

# METADATA
# title: Ambiguities allowed
# description: |
#   Kinds of ambiguous headers that are accepted. The operator's list replaces the default one. The kind
#   own-address-in-display-name is an address-in-display-name in a domain of the login or of display_name_domains.
default ambiguous_allow := {"own-address-in-display-name", "via-address-in-display-name"}

ambiguous_allow := {kind | some kind in data.settings.ambiguous_allow} if is_array(data.settings.ambiguous_allow)

# METADATA
# title: Domains in display names
# description: Domains whose addresses a display name may show, besides those of the login, in lower case.
default display_name_domains := set()

display_name_domains := {lower(domain) |
	some domain in data.settings.display_name_domains
	is_string(domain)
} if {
	is_array(data.settings.display_name_domains)
}

# METADATA
# title: Canonical originators
# description: |
#   What happens to a From, Sender, Resent-From or Resent-Sender that not every program is sure to read alike: "rewrite" it in a form that
#   they do, "refuse" the message, or "leave" the field.
# custom:
#   rfc: RFC 5322 section 3.6.2, RFC 2047
default canonical_originators := "rewrite"

canonical_originators := data.settings.canonical_originators if {
	data.settings.canonical_originators in {"refuse", "leave"}
}

# METADATA
# title: Fields of recipients
# description: |
#   What happens to a To, Cc, Reply-To or Bcc that cannot be read strictly, and to doubled fields that do not say who wrote the message: with
#   "lenient" the message passes and a note says so, with "strict" it is refused.
# custom:
#   rfc: RFC 5322 sections 3.6.2, 3.6.3 and 4.4
default recipient_fields := "lenient"

recipient_fields := "strict" if data.settings.recipient_fields == "strict"

# METADATA
# title: Messages sent again
# description: |
#   What happens to a message of somebody else that a login sends again with a block of Resent- fields of its own: "allow" relays it with its From
#   as it came, "refuse" treats it as any other message.
# custom:
#   rfc: RFC 5322 section 3.6.6
default resent := "allow"

resent := "refuse" if data.settings.resent == "refuse"
