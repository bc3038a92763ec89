package message

import (
	"bytes"
	"fmt"
)

// LineError says where a message breaks the rule that lines end in CRLF and CR, LF and NUL stand nowhere else
// (RFC 5321 §2.3.8, §4.1.1.4). A server that repairs such a message instead of refusing it makes smuggling possible.
type LineError struct {
	Offset int64 // octets from the start of the stream
	What   string
}

func (e *LineError) Error() string { return fmt.Sprintf("%s at octet %d", e.What, e.Offset) }

// LineChecker checks a stream block by block. Its zero value is ready to use.
type LineChecker struct {
	offset int64
	cr     bool // the last octet was a CR
}

// Check checks the next block. After an error the LineChecker must not be used any more.
func (c *LineChecker) Check(b []byte) error {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return &LineError{c.offset + int64(i), "NUL"}
	}
	if c.cr && len(b) > 0 && b[0] != '\n' {
		return &LineError{c.offset - 1, "bare CR"}
	}
	start := 0
	for {
		i := bytes.IndexByte(b[start:], '\n')
		end := len(b)
		if i >= 0 {
			end = start + i
			if end > 0 && b[end-1] != '\r' || end == 0 && !c.cr {
				return &LineError{c.offset + int64(end), "bare LF"}
			}
		}
		// A CR must be followed by LF. Where it is the last octet of the block, the next block shows it.
		if j := bytes.IndexByte(b[start:end], '\r'); j >= 0 && start+j != end-1 {
			return &LineError{c.offset + int64(start+j), "bare CR"}
		}
		if i < 0 {
			break
		}
		start = end + 1
	}
	if len(b) > 0 {
		c.cr = b[len(b)-1] == '\r'
	}
	c.offset += int64(len(b))
	return nil
}

// End reports an error where the stream must not end here.
func (c *LineChecker) End() error {
	if c.cr {
		return &LineError{c.offset - 1, "bare CR"}
	}
	return nil
}

// CheckLines checks the line ends of a whole message. Errors are *LineError.
func CheckLines(b []byte) error {
	var c LineChecker
	if err := c.Check(b); err != nil {
		return err
	}
	return c.End()
}
