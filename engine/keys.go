package engine

import (
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// keys are the terms that every input shares: object keys and constants, made once a Policy and never changed.
type keys struct {
	version, stage, id, now, server, client, tls, auth, envelope, recipient, message, unknown,
	hostname, listener, door,
	ip, port, name, ehlo, recentAuthFailures, recentLogin, age,
	cipher, sni, certificate, subject, issuer, sans, sha256,
	login, mechanism, backend, authzid, groups, attributes, recentFailures,
	from, to, recipientCount, null, address, key, local, domain, parameters,
	size, headers, header, value, sender, replyTo, cc, bcc, resent,
	unqualified, index, pieces, ambiguous, kind, field, text,
	generated, messageID, date, body, truncated *ast.Term

	three, yes, no, empty, list, object *ast.Term
	stages                              [StageMessage + 1]*ast.Term
}

func newKeys() *keys {
	s := ast.StringTerm
	k := &keys{
		version: s("version"), stage: s("stage"), id: s("id"), now: s("now"), server: s("server"), client: s("client"),
		tls: s("tls"), auth: s("auth"), envelope: s("envelope"), recipient: s("recipient"), message: s("message"),
		unknown: s("unknown"), hostname: s("hostname"), listener: s("listener"), door: s("door"), ip: s("ip"),
		port: s("port"), name: s("name"), ehlo: s("ehlo"), cipher: s("cipher"), sni: s("sni"),
		certificate: s("certificate"), subject: s("subject"), issuer: s("issuer"), sans: s("sans"), sha256: s("sha256"),
		login: s("login"), mechanism: s("mechanism"), backend: s("backend"), authzid: s("authzid"), groups: s("groups"),
		attributes: s("attributes"), from: s("from"), to: s("to"), null: s("null"), address: s("address"), key: s("key"),
		local: s("local"), domain: s("domain"), parameters: s("parameters"), size: s("size"), headers: s("headers"),
		header: s("header"), value: s("value"), sender: s("sender"), replyTo: s("reply_to"), cc: s("cc"), bcc: s("bcc"),
		resent: s("resent"), unqualified: s("unqualified"), index: s("index"), pieces: s("pieces"),
		ambiguous: s("ambiguous"), kind: s("kind"), field: s("field"), text: s("text"), generated: s("generated"),
		messageID: s("message_id"), date: s("date"), body: s("body"), truncated: s("truncated"),

		recentAuthFailures: s("recent_auth_failures"), recentLogin: s("recent_login"), age: s("age"), recentFailures: s("recent_failures"),
		recipientCount: s("recipient_count"),

		three: ast.IntNumberTerm(3), yes: ast.BooleanTerm(true), no: ast.BooleanTerm(false), empty: s(""),
		list: ast.ArrayTerm(), object: ast.ObjectTerm(),
	}
	for _, stage := range contract.Stages() {
		k.stages[stage] = s(stage.String())
	}
	return k
}
