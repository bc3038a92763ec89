package message

import (
	"net/mail"
	"regexp"
	"testing"
	"time"
)

var (
	// dateTime of RFC 5322 §3.3, without the obsolete forms.
	dateTime = regexp.MustCompile(`^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3][0-9] (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4,} [0-2][0-9]:[0-5][0-9]:[0-5][0-9] [+-][0-9]{4}\z`)
	// messageID of RFC 5322 §3.6.4, dot-atoms on both sides.
	messageID = regexp.MustCompile(`^<[0-9]{14,}\.[0-9]{6}\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*>\z`)
)

// FuzzDate: for any time and zone, FormatDate gives a date-time of RFC 5322 that another reader takes for the same second. For any id and
// host name, NewMessageID gives a valid Message-ID. Both can be put into a header.
func FuzzDate(f *testing.F) {
	for _, sec := range []int64{0, 951782399, 1709164800, 4102444799, 253402300799, -62135596800, 1 << 33} {
		f.Add(sec, int64(999_999_999), 0, "Q1", "mail.example.com")
		f.Add(sec, int64(0), -570, "4b.x-1_y@", "b\u00fccher.example")
		f.Add(sec, int64(1), 14*60, "..--..", "..")
		f.Add(sec, int64(1), -12*60, "a\r\nBcc: x", "h>\r\n")
	}
	f.Fuzz(func(t *testing.T, sec, nsec int64, minutes int, id, host string) {
		// Until the year 9999, in which all that write dates in four digits end; zones are whole minutes, as the format has them.
		if sec < -62135596800+86400 || sec > 253402300799-86400 || nsec < 0 || nsec > 999_999_999 || minutes < -24*60+1 || minutes > 24*60-1 {
			return
		}
		at := time.Unix(sec, nsec).In(time.FixedZone("", minutes*60))
		s := FormatDate(at)
		if !dateTime.MatchString(s) {
			t.Fatalf("%v is written as %q", at, s)
		}
		if read, err := mail.ParseDate(s); err != nil || read.Unix() != sec {
			t.Fatalf("%v is written as %q, and read as %v, %v", at, s, read, err)
		}
		m := NewMessageID(at, id, host)
		if !messageID.MatchString(m) {
			t.Fatalf("%q of %q and %q", m, id, host)
		}
		if u, err := time.Parse("20060102150405.000000", m[1:22]); err != nil || !u.Equal(at.Truncate(time.Microsecond)) {
			t.Fatalf("%q says %v, %v; it was %v", m, u, err, at)
		}
		for name, value := range map[string]string{"Date": s, "Message-ID": m} {
			if len(id)+len(host) > 512 {
				continue
			}
			if _, err := NewEdit(OpAddHeader, name, 0, value, false); err != nil {
				t.Fatal(err)
			}
		}
	})
}
