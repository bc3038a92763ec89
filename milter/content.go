package milter

import (
	"errors"
	"io"

	"github.com/postern-mail/postern/internal/message"
)

// content collects header and body of one message as the mail server sends them.
type content struct {
	limits *Limits
	place  *message.Place

	fields     [][2]string // name, and value with line ends inside
	fieldBytes int         // of the fields so far, as they would be written
	memory     int64       // taken of place.InMemory for fields
	body       *message.Spool
	bodyBytes  int64  // received, kept or not
	bodyErr    error  // the body could not be kept
	over       string // the limit that the message exceeds; "": none. What was kept is incomplete otherwise
}

// bodyInMemory is how much of a body stays in memory; the rest goes to an unlinked temporary file.
const bodyInMemory = 128 << 10

// addField takes one header field. Beyond the limits it keeps nothing but the name of the limit.
func (c *content) addField(name, value string) {
	size := len(name) + len(value) + 4 // colon, space, CR, LF
	c.fieldBytes += size
	switch {
	case c.over != "":
	case c.fieldBytes > c.limits.HeaderBytes:
		c.over = message.LimitBytes
	case len(c.fields) >= c.limits.HeaderFields:
		c.over = message.LimitFields
	case !c.place.InMemory.Take(int64(size)):
		c.over = limitMemory
	default:
		c.memory += int64(size)
		c.fields = append(c.fields, [2]string{name, value})
	}
}

// addBody takes a piece of the body and keeps it up to Limits.BodyBytes. enough says that no more will be kept. The error is
// the first one of keeping the body.
func (c *content) addBody(p []byte) (enough bool, err error) {
	if c.body == nil && c.bodyErr == nil {
		c.body = c.place.NewSpool(c.limits.BodyBytes)
	}
	c.bodyBytes += int64(len(p))
	if c.bodyErr == nil {
		err = c.keep(p)
	}
	return c.bodyBytes >= c.limits.BodyBytes, err
}

func (c *content) keep(p []byte) error {
	room := c.limits.BodyBytes - c.body.Size()
	if room <= 0 {
		return nil
	}
	if _, c.bodyErr = c.body.Write(p[:min(int64(len(p)), room)]); c.bodyErr == nil {
		return nil
	}
	if errors.Is(c.bodyErr, message.ErrNoRoom) && c.over == "" {
		c.over = limitDisk
	}
	_ = c.body.Close() // its room is for other messages
	return c.bodyErr
}

// readBody returns at most limit bytes of what was kept.
func (c *content) readBody(limit int) ([]byte, error) {
	if c.bodyErr != nil {
		return nil, c.bodyErr
	}
	if c.body == nil {
		return nil, nil
	}
	b := make([]byte, min(int64(limit), c.body.Size()))
	if _, err := io.ReadFull(c.body.Section(0), b); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// release gives memory and files back. It may be called again.
func (c *content) release() {
	if c.body != nil {
		_ = c.body.Close()
	}
	c.place.InMemory.Give(c.memory)
	c.memory = 0
}
