package milter

import (
	"encoding/binary"
	"slices"

	gomilter "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/engine"
)

// terms are what both sides agreed on for a connection.
type terms struct {
	version  uint32
	actions  gomilter.OptAction
	protocol gomilter.OptProtocol
}

const (
	newestVersion = 6
	oldestVersion = 2
)

// decodeOffer reads the MTA's negotiation frame.
func decodeOffer(data []byte) (terms, error) {
	if len(data) != 12 {
		return terms{}, protocolError("O with %d octets; it has 12", len(data))
	}
	t := terms{
		version:  binary.BigEndian.Uint32(data),
		actions:  gomilter.OptAction(binary.BigEndian.Uint32(data[4:])),
		protocol: gomilter.OptProtocol(binary.BigEndian.Uint32(data[8:])),
	}
	if t.version < oldestVersion {
		return t, protocolError("version %d offered; %d is the oldest that is spoken here", t.version, oldestVersion)
	}
	return t, nil
}

// agree answers an offer: what is offered, and of it what a snapshot with needs n asks for. missing names the operations
// of the policy contract that n may use and the MTA withholds.
func agree(offer terms, n engine.Needs) (answer terms, missing []string) {
	answer.version = min(offer.version, newestVersion)
	var need gomilter.OptAction
	for _, op := range operationsOf(n) {
		bits := actionsFor[op]
		need |= bits
		if offer.actions&bits != bits {
			missing = append(missing, op)
		}
	}
	if answer.version >= 6 {
		need |= gomilter.OptSetSymList
	}
	answer.actions = offer.actions & need
	answer.protocol = offer.protocol & wish(offer.protocol, n)
	return answer, missing
}

// wish is what of the protocol's options helps a snapshot with needs n.
func wish(offer gomilter.OptProtocol, n engine.Needs) gomilter.OptProtocol {
	w := gomilter.OptNoUnknown | gomilter.OptNoData | gomilter.OptNoHeaderReply | gomilter.OptNoHeloReply |
		gomilter.OptNoDataReply | gomilter.OptNoUnknownReply | gomilter.OptHeaderLeadingSpace
	if !n.Connect {
		w |= gomilter.OptNoConnReply
	}
	if !n.Mail {
		w |= gomilter.OptNoMailReply
	}
	if !n.Rcpt {
		w |= gomilter.OptNoRcptReply
	}
	switch {
	case !n.Body && !n.Size:
		w |= gomilter.OptNoBody | gomilter.OptNoBodyReply
		// The end of the message follows the header at once then, and one answer serves both.
		if !n.Message || offer&gomilter.OptNoBody != 0 {
			w |= gomilter.OptNoEOHReply
		}
	case !n.Size && offer&gomilter.OptSkip != 0:
		// SKIP is an answer: it spares the rest of a body of which policy sees the beginning only.
		w |= gomilter.OptSkip | gomilter.OptNoEOHReply
	default:
		w |= gomilter.OptNoBodyReply | gomilter.OptNoEOHReply
	}
	return w
}

// actionsFor are the MTA's actions that an operation of the policy contract takes. A replacement may have to add, and
// where its new value is empty, to delete and insert.
var actionsFor = map[string]gomilter.OptAction{
	"add_header":       gomilter.OptAddHeader,
	"insert_header":    gomilter.OptAddHeader,
	"replace_header":   gomilter.OptAddHeader | gomilter.OptChangeHeader,
	"remove_header":    gomilter.OptChangeHeader,
	"change_sender":    gomilter.OptChangeFrom,
	"add_recipient":    gomilter.OptAddRcpt,
	"remove_recipient": gomilter.OptRemoveRcpt,
	"quarantine":       gomilter.OptQuarantine,
}

// operationsOf lists what a snapshot may ask for, sorted.
func operationsOf(n engine.Needs) []string {
	ops := slices.Clone(n.Edits)
	if n.Quarantine {
		ops = append(ops, "quarantine")
	}
	slices.Sort(ops)
	return slices.Compact(ops)
}

// everything is needed while no snapshot is active: the first one may come before the connection's first message.
func needsOf(p *engine.Policy) engine.Needs {
	if p != nil {
		return p.Needs()
	}
	n := engine.Needs{Connect: true, Mail: true, Rcpt: true, Message: true, Header: true, Size: true, Body: true, Quarantine: true, Discard: true}
	for op := range actionsFor {
		if op != "quarantine" {
			n.Edits = append(n.Edits, op)
		}
	}
	return n
}

// appendAnswer appends the negotiation frame, with the macro lists where they were agreed on.
func (t terms) appendAnswer(dst []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, t.version)
	b = binary.BigEndian.AppendUint32(b, uint32(t.actions))
	b = binary.BigEndian.AppendUint32(b, uint32(t.protocol))
	if t.chosenMacros() {
		for _, l := range askedMacros {
			b = binary.BigEndian.AppendUint32(b, l.stage)
			b = append(append(b, l.names...), 0)
		}
	}
	return appendFrame(dst, byte(cmdOptNeg), string(b))
}

// chosenMacros says that the MTA sends the macros that we asked for, so that an absent one means "no".
func (t terms) chosenMacros() bool { return t.actions&gomilter.OptSetSymList != 0 }

func (t terms) leadingSpace() bool { return t.protocol&gomilter.OptHeaderLeadingSpace != 0 }
func (t terms) noBody() bool       { return t.protocol&gomilter.OptNoBody != 0 }
func (t terms) maySkip() bool      { return t.protocol&gomilter.OptSkip != 0 }

// answered says whether the MTA waits for an answer to cmd.
func (t terms) answered(cmd command) bool {
	switch cmd {
	case cmdAbort, cmdMacro, cmdQuit, cmdQuitNewCon:
		return false
	case cmdEOM, cmdOptNeg:
		return true
	}
	return t.protocol&silencedBy[cmd] == 0
}

var silencedBy = map[command]gomilter.OptProtocol{
	cmdConnect: gomilter.OptNoConnReply,
	cmdHelo:    gomilter.OptNoHeloReply,
	cmdMail:    gomilter.OptNoMailReply,
	cmdRcpt:    gomilter.OptNoRcptReply,
	cmdData:    gomilter.OptNoDataReply,
	cmdUnknown: gomilter.OptNoUnknownReply,
	cmdHeader:  gomilter.OptNoHeaderReply,
	cmdEOH:     gomilter.OptNoEOHReply,
	cmdBody:    gomilter.OptNoBodyReply,
}
