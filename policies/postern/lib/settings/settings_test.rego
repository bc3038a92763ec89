package postern.lib.settings_test

import data.postern.lib.settings

_all := {
	"domain": settings.domain,
	"require_auth": settings.require_auth,
	"allow_local": settings.allow_local,
	"null_sender": settings.null_sender,
	"subaddress_separator": settings.subaddress_separator,
	"max_recipients": settings.max_recipients,
	"max_hops": settings.max_hops,
	"date": settings.date,
	"message_id": settings.message_id,
	"allow_address_literals": settings.allow_address_literals,
	"allow_dotless_domains": settings.allow_dotless_domains,
	"sender": settings.sender,
	"ambiguous_allow": settings.ambiguous_allow,
	"sender_attributes": settings.sender_attributes,
	"display_name_domains": settings.display_name_domains,
	"canonical_originators": settings.canonical_originators,
	"recipient_fields": settings.recipient_fields,
	"resent": settings.resent,
}

_defaults := {
	"domain": "",
	"require_auth": true,
	"allow_local": false,
	"null_sender": true,
	"subaddress_separator": "+",
	"max_recipients": 100,
	"max_hops": 100,
	"date": "fix",
	"message_id": "fix",
	"allow_address_literals": false,
	"allow_dotless_domains": false,
	"sender": "fix",
	"ambiguous_allow": {"own-address-in-display-name", "via-address-in-display-name"},
	"sender_attributes": [],
	"display_name_domains": set(),
	"canonical_originators": "rewrite",
	"recipient_fields": "lenient",
	"resent": "allow",
}

test_defaults if _all == _defaults with data.settings as {}

test_defaults_where_settings_are_no_object if _all == _defaults with data.settings as "none"

test_each_setting if {
	wanted := {
		"domain": "example.com",
		"require_auth": false,
		"allow_local": true,
		"null_sender": false,
		"subaddress_separator": "-",
		"max_recipients": 3,
		"max_hops": 4,
		"date": "leave",
		"message_id": "refuse",
		"allow_address_literals": true,
		"allow_dotless_domains": true,
		"sender": "leave",
		"ambiguous_allow": {"duplicate-date"},
		"sender_attributes": ["mail"],
		"display_name_domains": {"example.org"},
		"canonical_originators": "leave",
		"recipient_fields": "strict",
		"resent": "refuse",
	}
	given := object.union(wanted, {
		"domain": "@Example.COM", "ambiguous_allow": ["duplicate-date"],
		"display_name_domains": ["Example.ORG", 1],
	})
	_all == wanted with data.settings as given
}

test_wrong_types_never_loosen if {
	given := {name: {"a": 1} | some name, _ in _defaults}
	_all == object.union(_defaults, {"subaddress_separator": ""}) with data.settings as given
}

test_wrong_values_never_loosen if {
	given := {"require_auth": "no", "allow_local": "yes", "max_recipients": 0, "max_hops": 0, "date": "repair", "message_id": "none", "sender": "anything", "ambiguous_allow": "all", "sender_attributes": "mail", "display_name_domains": "example.org", "canonical_originators": "keep", "recipient_fields": "loose", "resent": "never"}
	_all == _defaults with data.settings as given
}

test_subaddresses_turned_off_by_false if settings.subaddress_separator == "" with data.settings as {"subaddress_separator": false}

test_no_ambiguity_allowed if settings.ambiguous_allow == set() with data.settings as {"ambiguous_allow": []}
