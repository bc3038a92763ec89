package milter

import (
	"errors"
	"io"

	"github.com/postern-mail/postern/internal/message"
)

// incoming collects header and body as the MTA sends them. The zero value is ready.
type incoming struct {
	fields   [][2]string // name, and value with line ends inside
	octets   int         // of the fields so far, as they would be written
	over     string      // the limit that was passed; "": none. What was kept is incomplete otherwise
	memory   int64       // taken for fields of the server's
	body     *message.Spool
	bodySize int64 // octets that came, kept or not
	bodyErr  error // the body could not be kept
}

// addField takes one header field. Beyond the limits it only remembers that they were passed.
func (m *incoming) addField(name, value string, s *Server) {
	size := len(name) + len(value) + 4
	m.octets += size
	l := s.limits()
	switch {
	case m.over != "":
	case m.octets > l.HeaderBytes:
		m.over = message.LimitBytes
	case len(m.fields) >= l.HeaderFields:
		m.over = message.LimitFields
	case !s.place.InMemory.Take(int64(size)):
		m.over = limitMemory
	default:
		m.memory += int64(size)
		m.fields = append(m.fields, [2]string{name, value})
	}
}

// addBody takes a piece of the body and keeps it up to Limits.BodyBytes. full says that more of it will not be kept.
func (m *incoming) addBody(p []byte, s *Server) (full bool, err error) {
	limit := s.limits().BodyBytes
	if m.body == nil && m.bodyErr == nil {
		m.body = s.place.NewSpool(limit)
	}
	m.bodySize += int64(len(p))
	if m.bodyErr == nil {
		if room := limit - m.body.Size(); room > 0 {
			_, m.bodyErr = m.body.Write(p[:min(int64(len(p)), room)])
			if err = m.bodyErr; errors.Is(err, message.ErrNoRoom) && m.over == "" {
				m.over = limitDisk
			}
			if err != nil {
				_ = m.body.Close() // for the others
			}
		}
	}
	return m.bodySize >= limit, err
}

// bodyInMemory is how much of a body stays in memory; the rest goes to an unlinked temporary file.
const bodyInMemory = 128 << 10

// readBody gives at most limit octets of what was kept.
func (m *incoming) readBody(limit int) ([]byte, error) {
	if m.bodyErr != nil {
		return nil, m.bodyErr
	}
	if m.body == nil {
		return nil, nil
	}
	b := make([]byte, min(int64(limit), m.body.Size()))
	if _, err := io.ReadFull(m.body.Section(0), b); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

func (m *incoming) reset(s *Server) {
	if m.body != nil {
		_ = m.body.Close()
	}
	s.place.InMemory.Give(m.memory)
	*m = incoming{}
}
