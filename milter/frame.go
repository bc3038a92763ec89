package milter

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// command is the first octet of a frame from the MTA (SMFIC_*).
type command byte

const (
	cmdAbort      command = 'A'
	cmdBody       command = 'B'
	cmdConnect    command = 'C'
	cmdMacro      command = 'D'
	cmdEOM        command = 'E' // may carry the last body chunk
	cmdHelo       command = 'H'
	cmdQuitNewCon command = 'K' // the MTA keeps the socket for its next client
	cmdHeader     command = 'L'
	cmdMail       command = 'M'
	cmdEOH        command = 'N'
	cmdOptNeg     command = 'O'
	cmdQuit       command = 'Q'
	cmdRcpt       command = 'R'
	cmdData       command = 'T'
	cmdUnknown    command = 'U'
)

// Answers and operations (SMFIR_*).
const (
	ansContinue   = 'c'
	ansDiscard    = 'd'
	ansReplyCode  = 'y'
	ansSkip       = 's'
	opAddHeader   = 'h'
	opAddRcpt     = '+'
	opChangeFrom  = 'e'
	opChangeHead  = 'm'
	opDeleteRcpt  = '-'
	opInsertHead  = 'i'
	opQuarantine  = 'q'
	frameHeadSize = 4
)

// maxFrame bounds a frame, command included. It is the library's own bound too; real frames stay under 64 KiB but for
// header fields, which the MTAs bound at about 100 KiB.
const maxFrame = 1 << 20

// keepFrame is the largest buffer that a connection holds on to between frames.
const keepFrame = 70 << 10

// errProtocol is wrapped by whatever the MTA said that the protocol does not allow.
var errProtocol = errors.New("milter protocol")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// readFrame reads one frame into buf, which it may replace, and returns the command and its data; data is valid until
// buf is used again. Memory grows with what has arrived, not with what the length field claims.
func readFrame(r *bufio.Reader, buf *[]byte) (command, []byte, error) {
	head, err := r.Peek(frameHeadSize)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head)
	_, _ = r.Discard(frameHeadSize)
	if size == 0 || size > maxFrame {
		return 0, nil, protocolError("frame of %d octets; 1 to %d are allowed", size, maxFrame)
	}
	b := *buf
	if cap(b) > keepFrame {
		b = nil
	}
	b = b[:0]
	for have, want := 0, int(size); have < want; have = len(b) {
		step := min(want-have, max(cap(b)-have, 4096, have))
		b = append(b, make([]byte, step)...)
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	*buf = b
	return command(b[0]), b[1:], nil
}

// appendFrame appends a frame with the given code and parts.
func appendFrame(dst []byte, code byte, parts ...string) []byte {
	size := 1
	for _, p := range parts {
		size += len(p)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	dst = append(dst, code)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}
