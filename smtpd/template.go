package smtpd

import (
	"fmt"
	"slices"
	"strings"
)

const places = " ehlo client hostname protocol tls id login for date "

// checkBraces checks a template: its places are known, it is one line of printable US-ASCII, and it has a date, which RFC 5321
// §4.4 wants last, after a semicolon.
func checkBraces(template string) error {
	if len(template) > 500 || !printable(template) {
		return fmt.Errorf("received template: wants at most 500 printable ASCII characters on one line")
	}
	for rest := template; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			break
		}
		place, next, ok := strings.Cut(after, "}")
		if !ok || !slices.Contains(strings.Fields(places), place) {
			return fmt.Errorf("received template: unknown place {%s}; there are%s", place, strings.TrimRight(places, " "))
		}
		rest = next
	}
	if !strings.HasSuffix(template, "; {date}") {
		return fmt.Errorf(`received template: wants "; {date}" at its end (RFC 5321 section 4.4)`)
	}
	return nil
}
