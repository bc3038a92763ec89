package relay

import (
	"strconv"
	"strings"
)

// capabilities are what the next hop said in answer to EHLO or LHLO (RFC 5321 §4.1.1.1). The zero value has none.
type capabilities struct {
	pipelining bool // RFC 2920
	eightBit   bool // RFC 6152
	utf8       bool // RFC 6531
	dsn        bool // RFC 3461
	startTLS   bool // RFC 3207
	size       bool // RFC 1870
	maxSize    int64
	auth       []string // SASL mechanisms, upper case
}

func parseCapabilities(lines []string) capabilities {
	var c capabilities
	for i, l := range lines {
		if i == 0 {
			continue // the server's name and greeting
		}
		words := strings.Fields(strings.ToUpper(l))
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "PIPELINING":
			c.pipelining = true
		case "8BITMIME":
			c.eightBit = true
		case "SMTPUTF8":
			c.utf8 = true
		case "DSN":
			c.dsn = true
		case "STARTTLS":
			c.startTLS = true
		case "SIZE":
			c.size = true
			if len(words) > 1 {
				if n, err := strconv.ParseInt(words[1], 10, 64); err == nil && n > 0 {
					c.maxSize = n
				}
			}
		case "AUTH":
			c.auth = append(c.auth, words[1:]...)
		}
	}
	return c
}

// has reports whether the SASL mechanism is offered.
func (c *capabilities) has(mech string) bool {
	for _, m := range c.auth {
		if m == mech {
			return true
		}
	}
	return false
}
