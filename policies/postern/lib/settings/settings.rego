# METADATA
# scope: package
# title: Settings
# description: |
#   The operator's settings with a default for each. A value of the wrong type is as good as none, and where that would
#   loosen anything, it tightens.
package postern.lib.settings

# METADATA
# title: Domain of the unqualified
# description: Completes addresses without a domain, in the envelope and in the header. "" refuses them.
# custom:
#   rfc: RFC 6409 section 5.1
default domain := ""

domain := lower(trim_prefix(data.settings.domain, "@")) if is_string(data.settings.domain)

# METADATA
# title: Authentication required
# description: false lets mail of clients that have not authenticated pass untouched, for a filter that also sees inbound mail.
# custom:
#   rfc: RFC 6409 section 4.3
default require_auth := true

require_auth := false if data.settings.require_auth == false

# METADATA
# title: Local mail allowed
# description: true accepts, and repairs, mail of which the server cannot say who sent it, such as mail made on its own host.
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
# description: What separates alice from news in alice+news@example.com; "" turns subaddresses off.
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
# description: How many recipients one message may have.
# custom:
#   rfc: RFC 5321 section 4.5.3.1.8
default max_recipients := 100

max_recipients := data.settings.max_recipients if {
	is_number(data.settings.max_recipients)
	data.settings.max_recipients >= 1
}

# METADATA
# title: Address literals allowed
# description: Whether addresses such as alice@[192.0.2.1] pass.
# custom:
#   rfc: RFC 5321 section 4.1.3
default allow_address_literals := false

allow_address_literals if data.settings.allow_address_literals == true

# METADATA
# title: Dotless domains allowed
# description: Whether domains without a dot, such as alice@localhost, pass. settings.domain itself always does.
# custom:
#   rfc: RFC 5321 section 2.3.5
default allow_dotless_domains := false

allow_dotless_domains if data.settings.allow_dotless_domains == true

# METADATA
# title: Treatment of Sender
# description: |
#   "fix" adds or replaces Sender where it must name the login; "refuse" adds it, but refuses one that names somebody else;
#   "leave" adds nothing and refuses one that names somebody else.
# custom:
#   rfc: RFC 6409 section 8.1
default sender := "fix"

sender := data.settings.sender if data.settings.sender in {"refuse", "leave"}

# METADATA
# title: Attributes that hold sender addresses
# description: |
#   Names of attributes, as the backend that authenticated gave them, whose values are the login's own addresses. Only those
#   that users cannot change themselves belong here.
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
# description: Kinds of ambiguous headers that pass all the same. The operator's list takes the place of the default one.
default ambiguous_allow := {"address-in-display-name"}

ambiguous_allow := {kind | some kind in data.settings.ambiguous_allow} if is_array(data.settings.ambiguous_allow)
