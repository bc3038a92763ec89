package mta

import (
	"fmt"
	"strings"

	"github.com/postern-mail/postern/internal/e2e"
)

// hostile is a message that some reader somewhere takes for another person's.
type hostile struct {
	name string
	eml  string // as it is sent
}

// hostileValues are values of a field that names an originator. A@ stands for the login's own address, C@ for another's.
var hostileValues = []struct{ name, value string }{
	{"own", " A@"}, {"own-angle", " <A@>"}, {"own-name", " Alice <A@>"}, {"own-quoted-name", ` "Alice A." <A@>`}, {"own-dotted-name", " Alice A. Smith <A@>"},
	{"own-comment", " A@ (Alice)"}, {"own-subaddress", " alice+x@example.com"}, {"own-upper-domain", " alice@EXAMPLE.COM"}, {"own-upper-local", " ALICE@example.com"},
	{"own-no-space", "A@"}, {"own-tabs", "\t\tA@\t"}, {"own-unqualified", " alice"}, {"own-unqualified-angle", " Alice <alice>"}, {"own-quoted-local", ` "alice"@example.com`},
	{"own-quoted-pair", ` "al\ice"@example.com`}, {"own-twice", " A@, A@"}, {"own-trailing-dot", " alice@example.com."}, {"other", " C@"}, {"other-name", " Alice <C@>"},
	// Folding.
	{"folded", "\r\n A@"}, {"folded-tab", "\r\n\tAlice\r\n\t<A@>"}, {"folded-blank", " \r\n \r\n A@"}, {"folded-blank-after", " A@\r\n \r\n C@"}, {"folded-blank-last", " A@\r\n "},
	{"folded-in-address", " alice@\r\n example.com"}, {"folded-in-local", " al\r\n ice@example.com"}, {"folded-in-angle", " <\r\n A@>"}, {"folded-in-comment", " (x\r\n C@) A@"},
	{"folded-in-quotes", " \"x\r\n C@\" <A@>"}, {"folded-in-quotes-plain", " \"x\r\n y\" <A@>"}, {"folded-as-field", " Alice\r\n From: C@\r\n <A@>"}, {"folded-every-word", " A\r\n B\r\n C\r\n <A@>"}, {"folded-vertical-tab", " A@\r\n\vC@"},
	{"folded-form-feed", " A@\r\n\f C@"}, {"folded-nbsp", " A@\r\n\u00a0C@"}, {"folded-comma", " A@\r\n , C@"},
	// Several, and lists that are read two ways.
	{"two", " A@, C@"}, {"two-reversed", " C@, A@"}, {"two-semicolon", " A@; C@"}, {"two-space", " A@ C@"}, {"two-angles", " <A@> <C@>"}, {"two-angles-joined", " <A@><C@>"},
	{"two-in-angle", " <A@,C@>"}, {"two-in-angle-space", " <A@ C@>"}, {"two-in-angle-semicolon", " <A@;C@>"}, {"empty-first", " , A@"}, {"empty-first-other", " ,C@, A@"}, {"empty-last", " A@,"},
	{"empty-between", " A@,,C@"}, {"bare-then-angle", " C@ <A@>"}, {"angle-then-bare", " <A@> C@"}, {"name-after", " <A@> Alice"}, {"at-in-name", " C@ Alice <A@>"}, {"comma-in-name", " Smith, Alice <A@>"},
	{"unqualified-then", " ceo, A@"}, {"comma-newline", " A@,\r\n C@"}, {"colon-in-name", " x: Alice <A@>"}, {"tab-separated", " A@\tC@"},
	// Group syntax.
	{"group", " g: A@;"}, {"group-other", " g: C@;"}, {"group-empty", " g:;"}, {"group-two", " g: A@, C@;"}, {"group-then", " g:; , A@"}, {"group-then-other", " g: A@;, C@"},
	{"group-unended", " g: A@"}, {"group-nested", " g: h: C@;, A@;"}, {"group-named-address", ` "C@": A@;`}, {"group-undisclosed", " undisclosed-recipients:;"}, {"group-no-name", " : A@;"},
	{"group-joined", " g:C@;A@"}, {"group-angle", " g:<A@>;"}, {"semicolon-last", " A@;"},
	// Comments.
	{"comment-before", " (C@) A@"}, {"comment-after", " A@ (C@)"}, {"comment-in-local", " alice(x)@example.com"}, {"comment-after-at", " alice@(x)example.com"}, {"comment-in-domain", " alice@example(x).com"},
	{"comment-nested", " (a(b)c) A@"}, {"comment-nested-address", " (a(C@)c) A@"}, {"comment-quoted-paren", ` (\)C@) A@`}, {"comment-escaped", ` (a\(b) A@`}, {"comment-unended", " (C@ A@"}, {"comment-unended-after", " A@ (C@"},
	{"comment-closed-twice", " (a)) A@"}, {"comment-in-angle", " <(C@)A@>"}, {"comment-in-angle-after", " <A@(C@)>"}, {"comment-angle", " (<C@>) <A@>"}, {"comment-quote", ` (") <C@> (") <A@>`},
	{"comment-backslash-last", ` A@ (x\)`}, {"comment-deep", " " + strings.Repeat("(", 200) + strings.Repeat(")", 200) + " A@"}, {"comment-only", " (A@)"}, {"comment-comma", " (x, C@) A@"}, {"comment-empty", " () A@"},
	{"comment-quotes-unbalanced", ` (it's "so) A@ (x")`}, {"comment-semicolon", " A@ (;) "},
	// Quoted strings.
	{"quoted-address", ` "C@" <A@>`}, {"quoted-angle", ` "<C@>" <A@>`}, {"quoted-angle-comma", ` "<C@>, x" <A@>`}, {"quoted-escaped-quote", ` "x\" <C@>" <A@>`}, {"quoted-escaped-backslash", ` "x\\" <A@>`},
	{"quoted-backslash-then", ` "x\\" <C@> "y" <A@>`}, {"quoted-unended", ` "x <A@>`}, {"quoted-unended-two", ` "x <C@>, "y" <A@>`}, {"quoted-joined", ` "x""C@"<A@>`}, {"quoted-local-at", ` "ceo@example.com,"@example.com`},
	{"quoted-local-is-own", ` "A@"@example.com`}, {"quoted-local-angle", ` "alice@example.com> <ceo"@example.com`}, {"quoted-whole", ` "A@"`}, {"quoted-whole-other", ` "C@"`}, {"quoted-whole-angle", ` "Alice <A@>"`},
	{"quoted-domain", ` alice@"example.com"`}, {"quoted-local-empty", ` ""@example.com`}, {"quoted-local-space", ` "alice "@example.com`}, {"quoted-local-null", ` "\alice"@example.com`}, {"quoted-mixed-local", ` "al"ice@example.com`},
	{"quoted-dotted-local", ` "al".ice@example.com`}, {"quoted-cr", " \"x\\\r\n C@\" <A@>"}, {"quoted-name-empty", ` "" <A@>`}, {"quoted-tab", " \"a\tb\" <A@>"}, {"apostrophes", " 'C@' <A@>"}, {"apostrophes-own", " 'A@' <A@>"},
	{"backslash-name", ` \"C@\" <A@>`}, {"backslash-atom", ` al\ice@example.com`}, {"curly-quotes", " “C@” <A@>"},
	// Encoded words.
	{"encoded-name", " =?utf-8?q?Alice?= <A@>"}, {"encoded-name-b", " =?utf-8?b?QWxpY2U=?= <A@>"}, {"encoded-address-name", " =?utf-8?q?ceo=40example=2Ecom?= <A@>"}, {"encoded-angle", " =?utf-8?q?=3Cceo=40example=2Ecom=3E?= <A@>"},
	{"encoded-angle-comma", " =?utf-8?q?=3Cceo=40example=2Ecom=3E=2C?= <A@>"}, {"encoded-whole", " =?utf-8?q?alice=40example=2Ecom?="}, {"encoded-whole-b", " =?utf-8?b?Y2VvQGV4YW1wbGUuY29t?="},
	{"encoded-local", " =?utf-8?q?ceo?=@example.com"}, {"encoded-local-own", " =?utf-8?q?alice?=@example.com"}, {"encoded-local-quoted", ` "=?utf-8?q?ceo?="@example.com`}, {"encoded-domain", " alice@=?utf-8?q?example.com?="},
	{"encoded-in-angle", " <=?utf-8?q?ceo=40example=2Ecom?=>"}, {"encoded-in-angle-own", " <=?utf-8?q?alice=40example=2Ecom?=@example.com>"}, {"encoded-null", " =?utf-8?q?ceo=40example=2Ecom=00?= <A@>"},
	{"encoded-newline", " =?utf-8?q?x=0D=0AFrom:_ceo=40example=2Ecom?= <A@>"}, {"encoded-quote", ` =?utf-8?q?=22?= <C@> =?utf-8?q?=22?= <A@>`}, {"encoded-in-quotes", ` "=?utf-8?q?ceo=40example=2Ecom?=" <A@>`},
	{"encoded-unknown-charset", " =?x-none?q?ceo=40example=2Ecom?= <A@>"}, {"encoded-utf7", " =?utf-7?q?+AEA-?= <A@>"}, {"encoded-utf16", " =?utf-16?b?AGMAZQBvAEA=?= <A@>"}, {"encoded-broken", " =?utf-8?q?x <A@>"}, {"encoded-broken-b", " =?utf-8?b?!!!?= <A@>"},
	{"encoded-then-address", " =?utf-8?q?A=2C?= C@"}, {"encoded-split", " =?utf-8?q?ceo=40?=\r\n =?utf-8?q?example=2Ecom?= <A@>"}, {"encoded-paren", " =?utf-8?q?=28?= C@ =?utf-8?q?=29?= <A@>"}, {"encoded-language", " =?utf-8*en?q?Alice?= <A@>"},
	{"encoded-in-comment", " (=?utf-8?q?ceo=40example=2Ecom?=) A@"}, {"encoded-joined", " =?utf-8?q?Alice?=<A@>"}, {"encoded-empty", " =?utf-8?q??= <A@>"}, {"encoded-long", " =?utf-8?q?" + strings.Repeat("a", 200) + "?= <A@>"},
	// Routes, brackets and odd addresses.
	{"route", " <@example.org:A@>"}, {"route-other", " <@example.org:C@>"}, {"route-two", " <@a.example,@b.example:A@>"}, {"route-own", " <@alice@example.com:C@>"}, {"route-empty", " <:A@>"}, {"angle-empty", " <>"},
	{"angle-empty-name", " Alice <>"}, {"angle-empty-then", " <> <A@>"}, {"angle-double", " <<A@>>"}, {"angle-double-other", " <<C@>A@>"}, {"angle-open", " <A@"}, {"angle-open-other", " <C@ <A@>"}, {"angle-close", " A@>"},
	{"angle-space", " < A@ >"}, {"angle-tab", " <A@\t>"}, {"angle-in-name", " Alice > <A@>"}, {"mailto", " <mailto:A@>"}, {"at-twice", " alice@example.com@example.org"}, {"at-twice-other", " ceo@example.com@alice.example"},
	{"at-first", " @example.com"}, {"at-last", " alice@"}, {"at-only", " @"}, {"at-spaces", " alice @ example.com"}, {"at-space-before", " alice @example.com"}, {"dot-first", " .alice@example.com"}, {"dot-last", " alice.@example.com"},
	{"dot-twice", " al..ice@example.com"}, {"dot-space", " al . ice@example.com"}, {"percent", " alice%example.org@example.com"}, {"bang", " example.org!alice@example.com"}, {"literal", " alice@[192.0.2.1]"},
	{"literal-odd", " alice@[example.com]"}, {"literal-comma", " alice@[a,b]"}, {"literal-angle", " alice@[> <ceo@example.com]"}, {"domain-comma", " alice@example,com"}, {"domain-underscore", " alice@exa_mple.com"}, {"space-domain", " alice@example .com"},
	{"colon", " alice:x@example.com"}, {"semicolon-local", " alice;x@example.com"}, {"slash", " alice/x@example.com"}, {"url", " https://example.org/@alice@example.com"}, {"none", ""}, {"space", " "}, {"only-commas", " ,,,"}, {"only-name", " Alice"}, {"only-two-names", " Alice Smith"},
	// 8-bit and controls.
	{"utf8-name", " Ålice <A@>"}, {"utf8-local", " ålice@example.com"}, {"utf8-domain", " alice@exämple.com"}, {"utf8-at", " alice＠example.com <A@>"}, {"utf8-at-alone", " ceo＠example.com"}, {"utf8-fullwidth-angle", " ＜C@＞ <A@>"},
	{"utf8-dot", " alice@example。com"}, {"utf8-zero-width", " ali\u200bce@example.com"}, {"utf8-override", " \u202eecila <A@>"}, {"utf8-nbsp", " alice\u00a0<A@>"}, {"utf8-nel", " C@\u0085 <A@>"}, {"utf8-line-separator", " Alice\u2028From: C@ <A@>"},
	{"utf8-paragraph-separator", " Alice\u2029 <A@>"}, {"utf8-combining", " alice\u0301@example.com"}, {"utf8-bom", " \ufeffA@"}, {"latin1-name", " \xc5lice <A@>"}, {"latin1-local", " \xe5lice@example.com"}, {"overlong", " alice\xc1\x80example.com"},
	{"utf8-surrogate", " \xed\xa0\x80 <A@>"}, {"c1", " \xc2\x9b <A@>"}, {"kelvin", " alice@example.\u212aom"}, {"bell", " Alice\a <A@>"}, {"backspace", " C@\b\b <A@>"}, {"escape", " \x1b[2K <A@>"}, {"delete", " al\x7fice@example.com"},
	{"vertical-tab", " A@\v, C@"}, {"form-feed", " A@\f"}, {"file-separator", " Alice\x1cFrom: C@\x1c <A@>"}, {"unit-separator", " A@\x1f"}, {"record-separator", " Alice\x1e<A@>"},
	// Sizes.
	{"long-name", " " + strings.Repeat("x", 5000) + " <A@>"}, {"long-quoted", ` "` + strings.Repeat(`\"`, 5000) + `" <A@>`}, {"long-line-other", " " + strings.Repeat("x ", 20000) + "<C@>"}, {"many-own", " A@" + strings.Repeat(",\r\n A@", 600)},
	{"many-then-other", " A@" + strings.Repeat(",\r\n A@", 600) + ", C@"}, {"many-at", " " + strings.Repeat("@", 3000)}, {"many-words", strings.Repeat(" x", 3000) + " <A@>"}, {"many-folds", strings.Repeat("\r\n x", 1000) + " <A@>"},
	{"too-large", " " + strings.Repeat("\r\n x", 20000) + " <A@>"}, {"long-local", " " + strings.Repeat("a", 65) + "@example.com"}, {"long-comment", " (" + strings.Repeat("x", 10000) + ") A@"}, {"many-groups", strings.Repeat(" g:;,", 500) + " A@"},
}

// hostileHeaders are whole headers, of which the body begins where the text says so. ~ stands for an ordinary From field.
var hostileHeaders = []struct{ name, text string }{
	// CERT VU#517845 and its kin: several fields.
	{"from-twice", "From: A@\r\nFrom: C@\r\n"}, {"from-twice-reversed", "From: C@\r\nFrom: A@\r\n"}, {"from-twice-same", "From: A@\r\nFrom: A@\r\n"}, {"from-case", "From: A@\r\nfROM: C@\r\n"},
	{"from-apart", "From: C@\r\nX-A: " + strings.Repeat("x", 2000) + "\r\nFrom: A@\r\n"}, {"sender-twice", "~Sender: A@\r\nSender: C@\r\n"}, {"sender-twice-own", "~Sender: A@\r\nSender: A@\r\n"}, {"sender-other", "~Sender: C@\r\n"},
	{"sender-first", "Sender: C@\r\n~"}, {"sender-only", "Sender: A@\r\n"}, {"resent-from", "~Resent-From: C@\r\n"}, {"resent-from-own", "~Resent-From: A@\r\nResent-Date: Mon, 2 Mar 2026 09:00:00 +0100\r\n"},
	{"resent-two-blocks", "Resent-From: A@\r\nResent-To: x@example.net\r\nResent-From: C@\r\nResent-To: y@example.net\r\n~"}, {"resent-two-own", "Resent-From: A@\r\nResent-From: A@\r\n~"}, {"resent-sender-only", "~Resent-Sender: C@\r\n"},
	{"resent-sender-own", "~Resent-From: A@\r\nResent-Sender: A@\r\n"}, {"resent-to-only", "~Resent-To: bob@example.net\r\n"}, {"reply-to", "~Reply-To: C@\r\n"}, {"return-path", "~Return-Path: <C@>\r\n"}, {"x-sender", "~X-Sender: C@\r\nX-From: C@\r\nApparently-From: C@\r\n"},
	{"on-behalf", "~X-Original-From: C@\r\nOriginal-From: C@\r\n"}, {"from-in-subject", "~Subject: x\r\n From: C@\r\n"}, {"to-two", "~To: x@example.net\r\nTo: y@example.net\r\n"}, {"date-two", "~Date: Mon, 2 Mar 2026 09:00:00 +0100\r\nDate: x\r\n"},
	// Names and colons.
	{"space-before-colon", "From : C@\r\n~"}, {"space-before-colon-own", "From : A@\r\n"}, {"tab-before-colon", "From\t: C@\r\n~"}, {"fold-before-colon", "From\r\n : C@\r\n~"}, {"fold-in-name", "Fr\r\n om: C@\r\n~"}, {"space-first", " From: C@\r\n~"},
	{"tab-first", "\tFrom: C@\r\n~"}, {"fold-first", " \r\n~From: C@\r\n"}, {"empty-name", ": C@\r\n~"}, {"empty-name-later", "~: C@\r\n"}, {"no-colon", "From C@\r\n~"}, {"no-colon-later", "~nonsense\r\nFrom: C@\r\n"}, {"no-colon-own-later", "X: y\r\nnonsense\r\n~"},
	{"double-colon", "From:: C@\r\n~"}, {"quoted-name", "\"From\": C@\r\n~"}, {"name-8bit", "Fr\u00f6m: C@\r\n~"}, {"name-zero-width", "From\u200b: C@\r\n~"}, {"name-nbsp", "From\u00a0: C@\r\n~"}, {"name-bell", "From\a: C@\r\n~"}, {"name-bom", "\ufeffFrom: C@\r\n~"},
	{"name-cyrillic", "Fr\u043em: C@\r\n~"}, {"name-fullwidth", "Ｆrom: C@\r\n~"}, {"name-encoded", "=?utf-8?q?From?=: C@\r\n~"}, {"name-parens", "From(x): C@\r\n~"}, {"name-slash", "From/: C@\r\n~"}, {"name-vertical-tab", "From\v: C@\r\n~"},
	{"name-form-feed-first", "\fFrom: C@\r\n~"}, {"name-long-s", "\u017fender: C@\r\n~"}, {"name-kelvin", "X: y\r\n\u212a: C@\r\n~"}, {"name-long", strings.Repeat("X", 3000) + ": y\r\n~"}, {"name-one", "F: C@\r\n~"}, {"name-dash", "From-: C@\r\n-From: C@\r\n~"},
	{"name-dot", ".From: C@\r\n~"}, {"name-at", "@: C@\r\n~"}, {"name-angle", "<From>: C@\r\n~"}, {"name-equals", "From=: C@\r\n~"}, {"name-semicolon", "From;: C@\r\n~"}, {"name-delete", "From\x7f: C@\r\n~"},
	// Where the header ends.
	{"blank-space", "X: y\r\n \r\nFrom: C@\r\n~"}, {"blank-space-then-own", "~X: y\r\n \r\nFrom: C@\r\n"}, {"blank-tab", "~X: y\r\n\t\r\nFrom: C@\r\n"}, {"blank-form-feed", "~\f\r\nFrom: C@\r\n"}, {"blank-vertical-tab", "~\v\r\nFrom: C@\r\n"},
	{"blank-nbsp", "~\u00a0\r\nFrom: C@\r\n"}, {"blank-first", "\r\n~"}, {"blank-first-other", "\r\nFrom: C@\r\n"}, {"blank-two", "~\r\n\r\nFrom: C@\r\n"}, {"body-from", "~\r\nFrom: C@\r\nSender: C@\r\n\r\nx\r\n"}, {"body-mbox", "~\r\nFrom C@ Mon Mar  2 09:00:00 2026\r\nFrom: C@\r\n\r\nx\r\n"},
	{"body-blank-mbox", "~\r\nx\r\n\r\nFrom C@ Mon Mar  2 09:00:00 2026\r\nFrom: C@\r\n\r\nx\r\n"}, {"body-escaped-mbox", "~\r\n>From C@\r\n"}, {"body-message", "~Content-Type: message/rfc822\r\nMIME-Version: 1.0\r\n\r\nFrom: C@\r\n\r\nx\r\n"},
	{"body-partial", "~Content-Type: message/partial; number=1; total=1; id=\"x\"\r\nMIME-Version: 1.0\r\n\r\nFrom: C@\r\n\r\nx\r\n"}, {"body-protected", "~Content-Type: multipart/mixed; boundary=b; protected-headers=\"v1\"\r\nMIME-Version: 1.0\r\n\r\n--b\r\nFrom: C@\r\n\r\n--b--\r\n"},
	{"dot-line", "~\r\n.\r\nFrom: C@\r\n"}, {"dot-first", ".\r\n~"}, {"dots", "~\r\n..\r\n...\r\n.x\r\n"}, {"dot-in-header", "~X: y\r\n .\r\n z\r\n"}, {"dot-field", "~.X: y\r\n"},
	// mbox lines.
	{"mbox", "From C@ Mon Mar  2 09:00:00 2026\r\n~"}, {"mbox-own", "From A@ Mon Mar  2 09:00:00 2026\r\n~"}, {"mbox-escaped", ">From C@ Mon Mar  2 09:00:00 2026\r\n~"}, {"mbox-later", "~From C@ Mon Mar  2 09:00:00 2026\r\n"}, {"mbox-colon", "From C@ Mon Mar  2 09:00:00 2026:\r\n~"},
	{"mbox-escaped-colon", ">From: C@\r\n~"}, {"mbox-only", "From C@ Mon Mar  2 09:00:00 2026\r\n"}, {"mbox-two", "From C@ x 09:00\r\nFrom C@ x 09:00\r\n~"}, {"mbox-fold", "~ From C@ 09:00\r\n"},
	// Nothing, and only that.
	{"empty", ""}, {"blank-only", "\r\n"}, {"blanks-only", "\r\n\r\n\r\n"}, {"text-only", "Hello, no header here.\r\n"}, {"text-colon", "Hello: no header here.\r\n"}, {"header-only", "~"}, {"space-only", " \r\n"}, {"name-only", "From:\r\n"}, {"colon-only", ":\r\n"},
	{"no-from", "To: bob@example.net\r\n"}, {"from-last", "To: bob@example.net\r\nX: y\r\n~"}, {"no-last-line-end", "~\r\nno end"}, {"header-no-line-end", "~X: y"}, {"ends-in-dot", "~\r\n."},
	// Line ends.
	{"bare-lf", "~X: y\nFrom: C@\r\n"}, {"bare-cr", "~X: y\rFrom: C@\r\n"}, {"bare-lf-end", "~\nFrom: C@\r\n"}, {"cr-cr-lf", "~X: y\r\r\nFrom: C@\r\n"}, {"lf-cr", "~X: y\n\rFrom: C@\r\n"}, {"nul", "~X: y\x00\r\n"}, {"nul-from", "From\x00: C@\r\n~"}, {"bare-lf-body", "~\r\nx\ny\r\n"},
	{"bare-cr-last", "~\r\nx\r"}, {"all-lf", "From: alice@example.com\nTo: bob@example.net\n\nx\n"},
	{"nel", "~X: y\u0085From: C@\r\n"}, {"line-separator", "~X: y\u2028From: C@\r\n"}, {"file-separator", "~X: y\x1cFrom: C@\r\n"}, {"latin1-nel", "~X: y\x85From: C@\r\n"}, {"vertical-tab", "~X: y\vFrom: C@\r\n"}, {"form-feed", "~X: y\fFrom: C@\r\n"},
	// Sizes.
	{"many-fields", strings.Repeat("X: y\r\n", 900) + "~"}, {"too-many-fields", "~" + strings.Repeat("X: y\r\n", 1100)}, {"other-far-down", "~" + strings.Repeat("X: y\r\n", 900) + "From: C@\r\n"}, {"large-field", "X: " + strings.Repeat("y", 60000) + "\r\n~"},
	{"too-large-field", "X: " + strings.Repeat("y", 70000) + "\r\n~"}, {"large-then-other", "~X: " + strings.Repeat(strings.Repeat("y", 60000)+"\r\nX: ", 6) + "\r\nFrom: C@\r\n"}, {"long-lines", "~\r\n" + strings.Repeat("x", 5000) + "\r\n"},
	{"many-folds", "X: y\r\n" + strings.Repeat(" y\r\n", 3000) + "~"}, {"many-from", strings.Repeat("From: A@\r\n", 100)}, {"received-many", strings.Repeat("Received: from a by b; Mon, 2 Mar 2026 09:00:00 +0100\r\n", 50) + "~"},
	// Fields that change how others are read.
	{"mime-twice", "~MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Type: message/rfc822\r\n\r\nFrom: C@\r\n"}, {"x-unix-from", "~X-UNIX-From: C@\r\n"}, {"dkim", "~DKIM-Signature: v=1; d=example.com; h=From:From; b=x\r\n"},
	{"resent-blank", "~Resent-From:\r\n"}, {"sender-blank", "~Sender:\r\n"}, {"sender-null", "~Sender: <>\r\n"}, {"bcc", "~Bcc: C@\r\n"}, {"bcc-fold-from", "~Bcc: x@example.net\r\n\r\nFrom: C@\r\n"}, {"bcc-last-fold", "Bcc:\r\n x@example.net\r\n~"},
	{"bcc-then-space", "Bcc: x@example.net\r\n From: C@\r\n~"}, {"bcc-unreadable", "Bcc: \"\r\n From: C@\r\n~"},
}

// hostileCorpus has each value in each field that names an originator, and each header.
func hostileCorpus() []hostile {
	const body = "\r\nHello.\r\n"
	ours := strings.NewReplacer("A@", e2e.Address, "C@", "ceo@example.com", "~", "From: Alice <"+e2e.Address+">\r\n")
	var all []hostile
	add := func(name, text string) { all = append(all, hostile{name, ours.Replace(text)}) }
	for _, v := range hostileValues {
		if strings.Contains(v.value, "~") {
			panic(v.name)
		}
		add("from/"+v.name, "From:"+v.value+"\r\nTo: bob@example.net\r\n"+body)
		add("sender/"+v.name, "~Sender:"+v.value+"\r\n"+body)
		add("resent/"+v.name, "Resent-From:"+v.value+"\r\nResent-To: x@example.net\r\n~"+body)
	}
	for _, h := range hostileHeaders {
		add("header/"+h.name, h.text)
		if !strings.Contains(h.text, "\r\n\r\n") && strings.HasSuffix(h.text, "\r\n") {
			add("header-body/"+h.name, h.text+body)
		}
	}
	seen := map[string]bool{}
	for _, m := range all {
		if seen[m.name] {
			panic(fmt.Sprintf("two hostile messages are called %s", m.name))
		}
		seen[m.name] = true
	}
	return all
}
