package milter

import "strings"

// macroKind says how long a macro's value holds and which of several values counts.
type macroKind uint8

const (
	macroConnection macroKind = 1 + iota // of the connection; the first value wins: Postfix's daemon_name flips at end of header
	macroTLS                             // of the connection; a later HELO wins, because STARTTLS comes between two
	macroMessage                         // of the transaction; the first value wins
	macroID                              // of the transaction; the last value wins: it is known late, and firm at the end
)

// kept are the macros that we read; others are dropped as they come, which bounds memory.
var kept = map[string]macroKind{
	"j": macroConnection, "v": macroConnection, "_": macroConnection,
	"daemon_name": macroConnection, "client_resolve": macroConnection,
	"tls_version": macroTLS, "cipher": macroTLS, "verify": macroTLS, "cert_subject": macroTLS, "cert_issuer": macroTLS,
	"auth_authen": macroMessage, "auth_type": macroMessage, "auth_author": macroMessage,
	"i": macroID,
}

// askedMacros is what we ask for where the MTA lets us choose, by the stage numbers of SMFIR_SETSYMLIST. A stage that is
// not named keeps the MTA's own list.
var askedMacros = []struct {
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

// macros holds what the MTA said, by scope. The zero value is ready.
type macros struct {
	connection map[string]string
	message    map[string]string
	early      bool // i was told before MAIL
	fresh      bool // MAIL's macros came, and MAIL itself did not yet
}

// maxMacroValue bounds a value that is kept; a longer one is dropped as if it had not been sent.
const maxMacroValue = 1024

// add takes in a macro frame for the command that stage says.
func (m *macros) add(stage command, pairs []string) {
	inMessage := false
	switch stage {
	case cmdMail:
		m.message, m.fresh, inMessage = nil, true, true
	case cmdRcpt, cmdData, cmdHeader, cmdEOH, cmdBody, cmdEOM:
		inMessage = true
	}
	for i := 0; i < len(pairs); i += 2 {
		name, value := strings.Trim(pairs[i], "{}"), pairs[i+1]
		kind := kept[name]
		if kind == 0 || value == "" || len(value) > maxMacroValue {
			continue
		}
		switch {
		case kind == macroConnection, kind == macroTLS:
			put(&m.connection, name, value, kind == macroTLS && stage == cmdHelo)
		case inMessage:
			put(&m.message, name, value, kind == macroID)
		case name == "i":
			m.early = true
		}
	}
}

// mail opens a transaction: macros of the one before are forgotten where MAIL brought none of its own.
func (m *macros) mail() {
	if !m.fresh {
		m.message = nil
	}
	m.fresh = false
}

// get returns a macro's value; "" where the MTA did not tell.
func (m *macros) get(name string) string {
	if k := kept[name]; k == macroConnection || k == macroTLS {
		return m.connection[name]
	}
	return m.message[name]
}

func put(to *map[string]string, name, value string, replace bool) {
	if *to == nil {
		*to = make(map[string]string, 8)
	}
	if _, there := (*to)[name]; !there || replace {
		(*to)[name] = value
	}
}
