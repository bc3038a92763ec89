package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	gomilter "github.com/emersion/go-milter"
)

// Terms are what both sides agreed on for a connection, or what the mail server offers.
type Terms struct {
	version  uint32
	actions  gomilter.OptAction
	protocol gomilter.OptProtocol
}

// Needs are what a Session wants to see and to do. They decide which answers and which parts of a message are negotiated.
type Needs struct {
	Connect, Mail, Rcpt, Message bool // stages at which an answer other than "continue" is possible
	Body                         bool // the beginning of the body
	Size                         bool // the size of the whole message, so the whole body
	Operations                   []Op // may be asked for at end of message
}

// Allows reports whether the mail server carries out the operation.
func (t Terms) Allows(op Op) bool {
	need := op.action()
	return t.actions&need == need
}

// ErrWithheld is wrapped by the error of Terms.Check for an operation that the mail server does not allow.
var ErrWithheld = errors.New("the mail server does not allow an operation")

// Check reports whether all operations may be sent. A Session calls it before it answers with operations: a message is
// changed by all of them or by none.
func (t Terms) Check(ops []Operation) error {
	for _, o := range ops {
		if !t.Allows(o.Op) {
			return fmt.Errorf("%w: %s", ErrWithheld, o)
		}
		if o.size() > maxFrame {
			return fmt.Errorf("operation %s takes more octets than a frame may have", o)
		}
	}
	return nil
}

// ChosenMacros reports whether the mail server sends the macros that it was asked for. A macro that is absent then means
// "no", and otherwise means nothing.
func (t Terms) ChosenMacros() bool { return t.actions&gomilter.OptSetSymList != 0 }

// LeadingSpace reports whether values of header fields come and go with the space behind the colon.
func (t Terms) LeadingSpace() bool { return t.protocol&gomilter.OptHeaderLeadingSpace != 0 }

// NoBody reports whether the body is not sent.
func (t Terms) NoBody() bool { return t.protocol&gomilter.OptNoBody != 0 }

// MaySkip reports whether the rest of a body is not sent once Session.Body has had enough.
func (t Terms) MaySkip() bool { return t.protocol&gomilter.OptSkip != 0 }

// awaited reports whether the mail server waits for an answer to a verb.
func (t Terms) awaited(verb Verb) bool {
	switch verb {
	case Abort, verbMacro, verbQuit, NewClient:
		return false
	case EndOfMessage, verbNegotiate:
		return true
	}
	return t.protocol&silencedBy[verb] == 0
}

var silencedBy = map[Verb]gomilter.OptProtocol{
	Connect:     gomilter.OptNoConnReply,
	Helo:        gomilter.OptNoHeloReply,
	Mail:        gomilter.OptNoMailReply,
	Rcpt:        gomilter.OptNoRcptReply,
	verbData:    gomilter.OptNoDataReply,
	verbUnknown: gomilter.OptNoUnknownReply,
	verbHeader:  gomilter.OptNoHeaderReply,
	EndOfHeader: gomilter.OptNoEOHReply,
	verbBody:    gomilter.OptNoBodyReply,
}

const (
	newestVersion = 6
	oldestVersion = 2
)

// decodeOffer reads the mail server's negotiation frame.
func decodeOffer(data []byte) (Terms, error) {
	if len(data) != 12 {
		return Terms{}, protocolError("O with %d octets; it has 12", len(data))
	}
	t := Terms{
		version:  binary.BigEndian.Uint32(data),
		actions:  gomilter.OptAction(binary.BigEndian.Uint32(data[4:])),
		protocol: gomilter.OptProtocol(binary.BigEndian.Uint32(data[8:])),
	}
	if t.version < oldestVersion {
		return t, protocolError("version %d offered; %d is the oldest that is supported", t.version, oldestVersion)
	}
	return t, nil
}

// agree answers an offer with the part of it that n needs.
func agree(offer Terms, n Needs) Terms {
	var actions gomilter.OptAction
	for _, op := range n.Operations {
		actions |= op.action()
	}
	t := Terms{version: min(offer.version, newestVersion), protocol: offer.protocol & options(offer.protocol, n)}
	if t.version >= 6 {
		actions |= gomilter.OptSetSymList
	}
	t.actions = offer.actions & actions
	return t
}

// options are the protocol options that help a Session with needs n, given those that are offered.
func options(offer gomilter.OptProtocol, n Needs) gomilter.OptProtocol {
	o := gomilter.OptNoUnknown | gomilter.OptNoData | gomilter.OptNoHeaderReply | gomilter.OptNoHeloReply |
		gomilter.OptNoDataReply | gomilter.OptNoUnknownReply | gomilter.OptHeaderLeadingSpace
	if !n.Connect {
		o |= gomilter.OptNoConnReply
	}
	if !n.Mail {
		o |= gomilter.OptNoMailReply
	}
	if !n.Rcpt {
		o |= gomilter.OptNoRcptReply
	}
	switch {
	case !n.Body && !n.Size:
		o |= gomilter.OptNoBody | gomilter.OptNoBodyReply
		// Without a body the end of the message follows the header at once, and one answer serves both.
		if !n.Message || offer&gomilter.OptNoBody != 0 {
			o |= gomilter.OptNoEOHReply
		}
	case !n.Size && offer&gomilter.OptSkip != 0:
		// SKIP is an answer to a piece of the body, so these answers must stay. It saves the rest of a body of which only the
		// beginning is needed.
		o |= gomilter.OptSkip | gomilter.OptNoEOHReply
	default:
		o |= gomilter.OptNoBodyReply | gomilter.OptNoEOHReply
	}
	return o
}

// appendTo appends the negotiation frame, with the macro lists if they were agreed on.
func (t Terms) appendTo(dst []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, t.version)
	b = binary.BigEndian.AppendUint32(b, uint32(t.actions))
	b = binary.BigEndian.AppendUint32(b, uint32(t.protocol))
	if t.ChosenMacros() {
		for _, l := range macroLists {
			b = binary.BigEndian.AppendUint32(b, l.stage)
			b = append(append(b, l.names...), 0)
		}
	}
	return appendFrame(dst, byte(verbNegotiate), string(b))
}
