package message

import (
	"strconv"
	"strings"
	"time"
)

// FormatDate returns t as a date-time of RFC 5322 §3.3.
func FormatDate(t time.Time) string { return t.Format("Mon, 02 Jan 2006 15:04:05 -0700") }

// ParseDate reads the value of a Date field (RFC 5322 §3.3) with everything that a reader must accept: comments, a missing or wrong day of
// the week, years of two and three digits, names of zones, no seconds (§4.3). A missing zone is UTC. ok is false for what is no date and time
// of the years 1900 to 9999.
func ParseDate(value string) (t time.Time, ok bool) {
	var d dateReader
	if !d.split(value) {
		return t, false
	}
	d.weekday()
	day, month, year := d.number(1, 2), d.month(), d.year()
	hour, minute, second := d.clock()
	offset := d.zone()
	if d.failed || len(d.words) > 0 {
		return t, false
	}
	if year < 1900 || time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Day() != day { // the month has no such day
		return t, false
	}
	return time.Date(year, month, day, hour, minute, second, 0, time.UTC).Add(-offset), true
}

// dateReader has the words and separators of a date that have not been read.
type dateReader struct {
	words  []string // of letters or of digits, a sign before a number, or one of , and :
	store  [16]string
	failed bool
}

// split takes the value apart. A date has at most 16 words.
func (d *dateReader) split(value string) bool {
	d.words = d.store[:0]
	for {
		rest, ok := skipCFWS(value)
		if !ok {
			return false
		}
		if rest == "" {
			return true
		}
		n := 1
		switch c := rest[0]; {
		case c == '+' || c == '-' || digit(c):
			for n < len(rest) && digit(rest[n]) {
				n++
			}
		case letterDigit(c):
			for n < len(rest) && letterDigit(rest[n]) && !digit(rest[n]) {
				n++
			}
		case c != ',' && c != ':':
			return false
		}
		if len(d.words) == len(d.store) {
			return false
		}
		d.words = append(d.words, rest[:n])
		value = rest[n:]
	}
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// next takes a word; "" at the end.
func (d *dateReader) next() string {
	if len(d.words) == 0 {
		return ""
	}
	word := d.words[0]
	d.words = d.words[1:]
	return word
}

// peek returns the next word without taking it.
func (d *dateReader) peek() string {
	if len(d.words) == 0 {
		return ""
	}
	return d.words[0]
}

func (d *dateReader) weekday() {
	if name := d.peek(); len(name) == 3 && strings.Contains("mon tue wed thu fri sat sun", lower(name)) {
		d.next()
	}
	if d.peek() == "," {
		d.next()
	}
}

// number takes a number of so many digits.
func (d *dateReader) number(least, most int) int {
	word := d.next()
	n, err := strconv.Atoi(word)
	if err != nil || !digit(word[0]) || len(word) < least || len(word) > most {
		d.failed = true
	}
	return n
}

func (d *dateReader) month() time.Month {
	const months = "janfebmaraprmayjunjulaugsepoctnovdec"
	name := lower(d.next())
	for m := range 12 {
		if name == months[3*m:3*m+3] {
			return time.Month(m + 1)
		}
	}
	d.failed = true
	return 0
}

// year takes a year; one of fewer than four digits is of the years from 1950 on (RFC 5322 §4.3).
func (d *dateReader) year() int {
	digits := len(d.peek())
	year := d.number(2, 4)
	switch {
	case digits == 2 && year < 50:
		return 2000 + year
	case digits < 4:
		return 1900 + year
	}
	return year
}

func (d *dateReader) clock() (hour, minute, second int) {
	hour = d.number(1, 2)
	d.failed = d.failed || d.next() != ":"
	minute = d.number(2, 2)
	if d.peek() == ":" {
		d.next()
		second = d.number(2, 2)
	}
	d.failed = d.failed || hour > 23 || minute > 59 || second > 60
	return hour, minute, second
}

// zones are the obsolete names of zones with their hours (RFC 5322 §4.3). A military letter and any other name mean UTC.
var zones = map[string]int{"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}

// zone takes the zone, if there is one, and returns its offset from UTC.
func (d *dateReader) zone() time.Duration {
	word := d.next()
	if word == "" || letterDigit(word[0]) && !digit(word[0]) {
		return time.Duration(zones[lower(word)]) * time.Hour
	}
	n, err := strconv.Atoi(word)
	if err != nil || len(word) != 5 || digit(word[0]) || n%100 > 59 || n%100 < -59 {
		d.failed = true
	}
	return time.Duration(n/100)*time.Hour + time.Duration(n%100)*time.Minute
}

// ReadUnusable returns the fields of h that are there and do not say what they are for, by lower-case name: "date" if there is no time in it
// (see ParseDate), "message-id" if there is no identifier in it. Of several fields of a name, one such field is enough.
func ReadUnusable(h *Header) []string {
	var date, id bool
	for i := range h.fields {
		switch f := &h.fields[i]; f.key {
		case "date":
			_, ok := ParseDate(f.value)
			date = date || !ok
		case "message-id":
			id = id || emptyID(f.value)
		}
	}
	var out []string
	if date {
		out = append(out, "date")
	}
	if id {
		out = append(out, "message-id")
	}
	return out
}

// emptyID reports whether a Message-ID holds no identifier: nothing but brackets, an @, comments and white space.
func emptyID(value string) bool {
	rest, ok := skipCFWS(value)
	return ok && strings.Trim(rest, " \t<>@()") == ""
}

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
