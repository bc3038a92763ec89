package wire

import (
	"encoding/binary"
	"fmt"
	"strings"

	gomilter "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/internal/message"
)

// Answer answers a command. The zero value lets the dialogue go on.
type Answer struct {
	Reply      message.Reply // 4xx or 5xx: a refusal
	Discard    bool          // accept the message and drop it
	Operations []Operation   // EndOfMessage, if the message is accepted; they passed Terms.Check
}

// refuses reports whether the answer is other than "continue".
func (a Answer) refuses() bool { return a.Discard || !a.Reply.IsZero() }

// appendTo appends the operations and the answer as frames.
func (a Answer) appendTo(dst []byte) []byte {
	if a.refuses() {
		a.Operations = nil // a message that is not accepted is not changed
	}
	for _, o := range a.Operations {
		dst = o.AppendTo(dst)
	}
	switch {
	case !a.Reply.IsZero():
		return appendFrame(dst, answerReplyCode, replyText(a.Reply))
	case a.Discard:
		return appendFrame(dst, answerDiscard)
	}
	return appendFrame(dst, answerContinue)
}

// replyText is a reply as SMFIR_REPLYCODE carries it: lines joined by CRLF, each with code and status. "%" is doubled,
// because Postfix and Sendmail put the text through a formatter.
func replyText(r message.Reply) string {
	s := strings.TrimSuffix(string(r.AppendTo(nil)), "\r\n")
	return strings.ReplaceAll(s, "%", "%%") + "\x00"
}

// Op is the code of an operation: a change of the message that the mail server is asked for (SMFIR_*).
type Op byte

const (
	AddHeader    Op = 'h'
	AddRcpt      Op = '+'
	ChangeFrom   Op = 'e'
	ChangeHeader Op = 'm'
	DeleteRcpt   Op = '-'
	InsertHeader Op = 'i'
	Quarantine   Op = 'q'
)

// action is what must have been negotiated for the operation.
func (op Op) action() gomilter.OptAction {
	switch op {
	case AddHeader, InsertHeader:
		return gomilter.OptAddHeader
	case ChangeHeader:
		return gomilter.OptChangeHeader
	case ChangeFrom:
		return gomilter.OptChangeFrom
	case AddRcpt:
		return gomilter.OptAddRcpt
	case DeleteRcpt:
		return gomilter.OptRemoveRcpt
	case Quarantine:
		return gomilter.OptQuarantine
	}
	return ^gomilter.OptAction(0)
}

// Operation is one change of the message.
type Operation struct {
	Op    Op
	Index int      // InsertHeader: position; ChangeHeader: which field of that name, from 1
	Text  []string // header: name and value; envelope: path and, for ChangeFrom, parameters; Quarantine: reason
}

// String describes the operation for logs and errors, without its value.
func (o Operation) String() string {
	name := map[Op]string{AddHeader: "add_header", InsertHeader: "insert_header", ChangeHeader: "change_header",
		ChangeFrom: "change_sender", AddRcpt: "add_recipient", DeleteRcpt: "remove_recipient", Quarantine: "quarantine"}[o.Op]
	return fmt.Sprintf("%s %q", name, o.Text[0])
}

// AppendTo appends the operation as a frame.
func (o Operation) AppendTo(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(o.size()-headSize))
	dst = append(dst, byte(o.Op))
	if o.indexed() {
		dst = binary.BigEndian.AppendUint32(dst, uint32(o.Index))
	}
	for _, t := range o.Text {
		dst = append(append(dst, t...), 0)
	}
	return dst
}

func (o Operation) indexed() bool { return o.Op == InsertHeader || o.Op == ChangeHeader }

// size is the number of octets of the frame.
func (o Operation) size() int {
	n := headSize + 1
	if o.indexed() {
		n += 4
	}
	for _, t := range o.Text {
		n += len(t) + 1
	}
	return n
}
