package message

import (
	"strings"
	"time"
)

// FormatDate returns t as a date-time of RFC 5322 §3.3.
func FormatDate(t time.Time) string { return t.Format("Mon, 02 Jan 2006 15:04:05 -0700") }

// NewMessageID makes the value of a Message-ID field (RFC 5322 §3.6.4) from the time, an id that is unique at that time, and
// the server's host name. Characters that a Message-ID cannot hold are left out of id and hostname.
func NewMessageID(now time.Time, id, hostname string) string {
	keep := func(s string) string {
		return strings.Trim(strings.Map(func(r rune) rune {
			if r < 0x80 && (letterDigit(byte(r)) || r == '-' || r == '.') {
				return r
			}
			return -1
		}, s), ".-")
	}
	host := keep(hostname)
	if host == "" || !dotString(host) {
		host = "localhost"
	}
	unique := strings.ReplaceAll(keep(id), ".", "-")
	if unique == "" {
		unique = "0"
	}
	return "<" + now.UTC().Format("20060102150405.000000") + "." + unique + "@" + host + ">"
}
