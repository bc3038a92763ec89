package wire

import "strings"

// scope says how long a macro's value holds, and which one counts if several arrive.
type scope uint8

const (
	scopeClient  scope = 1 + iota // the client's session; the first value counts, because Postfix's daemon_name changes at end of header
	scopeTLS                      // the client's session; a later HELO replaces the value, because STARTTLS comes between the two
	scopeMessage                  // the transaction; the first value counts
	scopeQueueID                  // the transaction; the last value counts, because the queue id is final only at the end
)

// scopes are the macros that are kept. All others are dropped when they arrive, which bounds memory.
var scopes = map[string]scope{
	"j": scopeClient, "v": scopeClient, "_": scopeClient,
	"daemon_name": scopeClient, "client_resolve": scopeClient,
	"tls_version": scopeTLS, "cipher": scopeTLS, "verify": scopeTLS, "cert_subject": scopeTLS, "cert_issuer": scopeTLS,
	"auth_authen": scopeMessage, "auth_type": scopeMessage, "auth_author": scopeMessage,
	"i": scopeQueueID,
}

// macroLists are the macros that the mail server is asked to send, where it lets the milter choose. stage is a number of
// SMFIR_SETSYMLIST. A stage that is not listed keeps the mail server's own list.
var macroLists = []struct {
	stage uint32
	names string
}{
	{0, "j _ v i {daemon_name} {client_resolve}"},
	{1, "{tls_version} {cipher} {verify} {cert_subject} {cert_issuer}"},
	{2, "i {auth_authen} {auth_type} {auth_author} {tls_version} {cipher} {verify} {cert_subject} {cert_issuer} {daemon_name}"},
	{3, "i"},
	{4, "i"},
	{6, "i {auth_authen} {auth_type}"},
	{5, "i {auth_authen} {auth_type}"},
}

// maxMacroValue bounds a value. A longer one is dropped as if it had not been sent.
const maxMacroValue = 1024

// macros holds the macros of a connection by scope. The zero value is ready.
type macros struct {
	client  map[string]string
	message map[string]string
	earlyID bool // the queue id was sent before MAIL
	fresh   bool // MAIL's macros have arrived and MAIL itself has not
}

// add stores the macros that precede the command of a stage; pairs are names and values in turn.
func (m *macros) add(stage Verb, pairs []string) {
	inMessage := false
	switch stage {
	case Mail:
		m.message, m.fresh, inMessage = nil, true, true
	case Rcpt, verbData, verbHeader, EndOfHeader, verbBody, EndOfMessage:
		inMessage = true
	}
	for i := 0; i < len(pairs); i += 2 {
		name, value := strings.Trim(pairs[i], "{}"), pairs[i+1]
		kind := scopes[name]
		if kind == 0 || value == "" || len(value) > maxMacroValue {
			continue
		}
		switch {
		case kind == scopeClient, kind == scopeTLS:
			put(&m.client, name, value, kind == scopeTLS && stage == Helo)
		case inMessage:
			put(&m.message, name, value, kind == scopeQueueID)
		case name == "i":
			m.earlyID = true
		}
	}
}

// mail begins a transaction. If MAIL had no macros of its own, those of the transaction before are forgotten.
func (m *macros) mail() {
	if !m.fresh {
		m.message = nil
	}
	m.fresh = false
}

// get returns a macro's value; "" if the mail server has not sent it.
func (m *macros) get(name string) string {
	if k := scopes[name]; k == scopeClient || k == scopeTLS {
		return m.client[name]
	}
	return m.message[name]
}

func put(to *map[string]string, name, value string, replace bool) {
	if *to == nil {
		*to = make(map[string]string, 8)
	}
	if _, exists := (*to)[name]; !exists || replace {
		(*to)[name] = value
	}
}
