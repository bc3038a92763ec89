package wire

import (
	"encoding/base64"
	"errors"
	"time"
)

// Errors of a SASL exchange after which the connection goes on.
var (
	ErrCancelled = errors.New("the client cancelled the exchange")
	ErrNotBase64 = errors.New("the answer is not base64")
)

// Ask sends the challenge of a SASL exchange (RFC 4954 §4) and reads the client's answer within timeout. The answer may be a
// password: the caller clears it after use. Errors are ErrCancelled and ErrNotBase64, or those after which nothing more
// can be read.
func (c *Conn) Ask(challenge []byte, timeout time.Duration) (answer []byte, err error) {
	c.out = append(base64.StdEncoding.AppendEncode(append(c.out, "334 "...), challenge), '\r', '\n')
	line, err := c.readLine(authLine, timeout, true)
	if err != nil {
		c.rerr = err
		return nil, err
	}
	defer c.wipe()
	if string(line) == "*" {
		return nil, ErrCancelled
	}
	return DecodeAnswer(line)
}

// DecodeAnswer decodes the client's side of a SASL exchange: an answer, or the initial response of AUTH.
func DecodeAnswer(b []byte) ([]byte, error) {
	if string(b) == "=" { // RFC 4954 §4: an empty initial response
		return []byte{}, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	if err != nil {
		return nil, ErrNotBase64
	}
	return out[:n], nil
}
