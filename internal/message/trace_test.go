package message

import (
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReceivedHere(t *testing.T) {
	for value, want := range map[string]bool{
		"from a by mail.example.com with ESMTPSA id x; Mon, 30 Nov 2026 10:00:00 +0000": true,
		"by MAIL.Example.com; x": true,
		"from a (b [192.0.2.1])\r\n\tBY mail.example.com.(8.18.1/8.18.1) with ESMTP id x": true,
		"(x (y) \\) z) by (the host) mail.example.com":                                    true,
		"from by by mail.example.com":                                                     true,
		"from mail.example.com by other.example":                                          false,
		"from a by other.example for by mail.example.com":                                 false,
		"from a (by mail.example.com) by other.example":                                   false,
		"from a; by mail.example.com":                                                     false,
		"from a by sub.mail.example.com":                                                  false,
		"from a by":                                                                       false,
		"from a (by mail.example.com":                                                     false,
		"":                                                                                false,
		"mail.example.com":                                                                false,
	} {
		h := headerOf(t, "Received: "+value+"\r\n")
		got := ReadTrace(h, "mail.example.com")
		if got.Received != 1 || got.ReceivedHere == 1 != want {
			t.Errorf("%q: %+v", value, got)
		}
		if got := ReadTrace(h, ""); got.ReceivedHere != 0 {
			t.Errorf("%q without a host name: %+v", value, got)
		}
	}
}

func headerOf(t *testing.T, fields string) *Header {
	t.Helper()
	h, err := ParseHeader([]byte(fields+"\r\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestResultsHere: RFC 8601 section 2.2. What cannot be parsed is taken for the server's if a program could read its name there.
func TestResultsHere(t *testing.T) {
	for value, want := range map[string]bool{
		"mail.example.com; dkim=pass":                        true,
		"MAIL.example.COM.; none":                            true,
		"mail.example.com 1; none":                           true,
		"mail.example.com (1) 12 (x); none":                  true,
		"(a (b) c) mail.example.com; none":                   true,
		"\"mail.example.com\"; none":                         true,
		"\"mail.\\example.com\"; none":                       true,
		"\" mail.example.com \"; none":                       true,
		"mail.example.com":                                   true,
		"mail.example.com dkim=pass":                         true,
		"(mail.example.com; dkim=pass":                       true,
		"\"mail.example.com; dkim=pass":                      true,
		"mail.(x)example.com; dkim=pass":                     true,
		"mail. example.com; dkim=pass":                       true,
		"mail.example.com/x; none":                           true,
		"=?utf-8?q?mail=2Eexample.com?=; none":               true,
		"x mail.example.com; none":                           true,
		"other.example; dkim=pass header.d=mail.example.com": false,
		"other.example (mail.example.com); none":             false,
		"other.example 1; none":                              false,
		"other.example none":                                 false,
		"sub.mail.example.com; none":                         false,
		"mail.example.co; none":                              false,
		"; none":                                             false,
		"":                                                   false,
	} {
		got := ReadTrace(headerOf(t, "Authentication-Results: other.example; none\r\nauthentication-RESULTS: "+value+"\r\n"), "mail.example.com")
		if want != slices.Equal(got.ResultsHere, []int{2}) || !want && got.ResultsHere != nil {
			t.Errorf("%q: %v", value, got.ResultsHere)
		}
		if got := ReadTrace(headerOf(t, "Authentication-Results: "+value+"\r\n"), ""); got.ResultsHere != nil {
			t.Errorf("%q without a host name: %v", value, got.ResultsHere)
		}
	}
	if got := ReadTrace(headerOf(t, "ARC-Authentication-Results: i=1; mail.example.com\r\n"), "mail.example.com"); got.ResultsHere != nil {
		t.Errorf("ARC: %v", got.ResultsHere)
	}
	many := headerOf(t, strings.Repeat("Authentication-Results: a.example\r\n", 600))
	if got := ReadTrace(many, "a.example"); len(got.ResultsHere) != 600 {
		t.Errorf("%d of 600", len(got.ResultsHere))
	}
}

// TestHostNames: a name in Unicode and its ASCII form are the same name.
func TestHostNames(t *testing.T) {
	for _, own := range []string{"b\u00fccher.example", "xn--bcher-kva.example", "B\u00dcCHER.example."} {
		for _, value := range []string{"b\u00fccher.example", "XN--bcher-kva.example", "\"B\u00dccher.example\""} {
			if got := ReadTrace(headerOf(t, "Authentication-Results: "+value+"; none\r\n"), own); len(got.ResultsHere) != 1 {
				t.Errorf("%s is not %s", value, own)
			}
		}
		if got := ReadTrace(headerOf(t, "Authentication-Results: b\u00fccher.example dkim=pass\r\n"), own); len(got.ResultsHere) != 1 {
			t.Errorf("malformed, of %s", own)
		}
		if got := ReadTrace(headerOf(t, "Authentication-Results: bucher.example; none\r\n"), own); got.ResultsHere != nil {
			t.Errorf("bucher.example is %s", own)
		}
	}
}

func TestMboxLine(t *testing.T) {
	for line, want := range map[string]bool{
		"From alice@example.com Mon Nov 30 10:00:00 2026":  true,
		"From alice@example.com  Tue Dec  1 10:00:00 2026": true,
		"From - Mon Nov 30 10:00:00 2026":                  true,
		"From alice Mon Nov 30 10:00:00 2026 +0100":        true,
		"From 1@xxx Mon Nov 30 10:00:00 +0000 2026":        true,
		"From alice Mon Nov 30 10:00:00 UTC 2026":          true,
		"From alice":                                                     false,
		"From alice yesterday":                                           false,
		"From alice 2026-11-30":                                          false,
		"From: alice Mon Nov 30 10:00:00 2026":                           false,
		"From x: Mon Nov 30 10:00:00 2026":                               false,
		">From alice Mon Nov 30 10:00:00 2026":                           false,
		"from alice Mon Nov 30 10:00:00 2026":                            false,
		" From alice Mon Nov 30 10:00:00 2026":                           false,
		"From alice Mon Nov 30 10:00:00 2026 x":                          false,
		"From  Mon Nov 30 10:00:00 2026":                                 false,
		"From " + strings.Repeat("x", 600) + " Mon Nov 30 10:00:00 2026": false,
	} {
		n := MboxLine([]byte(line + "\r\nSubject: x\r\n\r\n"))
		if want && n != len(line)+2 || !want && n != 0 {
			t.Errorf("%q: %d", line, n)
		}
	}
	if n := MboxLine([]byte("From alice Mon Nov 30 10:00:00 2026")); n != 0 {
		t.Errorf("without a line end: %d", n)
	}
}

// TestParseDate has the current and all obsolete forms (RFC 5322 sections 3.3 and 4.3). A want of "" is no date.
func TestParseDate(t *testing.T) {
	for value, want := range map[string]string{
		"Mon, 30 Nov 2026 10:00:00 +0000":                    "2026-11-30T10:00:00Z",
		"30 Nov 2026 10:00 -0530":                            "2026-11-30T15:30:00Z",
		"mon, 30 nov 2026 10:00:00 +0130":                    "2026-11-30T08:30:00Z",
		"Tue, 30 Nov 2026 10:00:00 +0000":                    "2026-11-30T10:00:00Z",
		"Mon 30 Nov 2026 10:00:00 +0000":                     "2026-11-30T10:00:00Z",
		"Mon,30 Nov 2026 10:00:00 GMT":                       "2026-11-30T10:00:00Z",
		"(a) Mon (b), 30 (c) Nov 26 10 : 00 (d) : 00 UT (e)": "2026-11-30T10:00:00Z",
		"1 Jan 49 0:00 EST":                                  "2049-01-01T05:00:00Z",
		"1 Jan 50 00:00:00 pdt":                              "1950-01-01T07:00:00Z",
		"1 Jan 101 00:00:00 Z":                               "2001-01-01T00:00:00Z",
		"31 Dec 2026 23:59:60 +0000":                         "2027-01-01T00:00:00Z",
		"29 Feb 2028 00:00:00 CEST":                          "2028-02-29T00:00:00Z",
		"30 Nov 2026 10:00:00":                               "2026-11-30T10:00:00Z",
		"1 Jan 9999 00:00:00 +0000":                          "9999-01-01T00:00:00Z",
		"1 Jan 1900 00:00:00 +0000":                          "1900-01-01T00:00:00Z",
		"":                                                   "",
		"()":                                                 "",
		"yesterday":                                          "",
		"Mon":                                                "",
		"Mon, 30 Nov 2026":                                   "",
		"Mon, 30 Nov":                                        "",
		"Mon, 31 Nov 2026 10:00:00 +0000":                    "",
		"29 Feb 2026 10:00:00 +0000":                         "",
		"0 Nov 2026 10:00:00 +0000":                          "",
		"30 Nov 2026 24:00:00 +0000":                         "",
		"30 Nov 2026 10:60:00 +0000":                         "",
		"30 Nov 2026 10:00:61 +0000":                         "",
		"30 Nov 2026 10:0:00 +0000":                          "",
		"30 Nov 2026 10:00: +0000":                           "",
		"30 Nov 2026 10.00 +0000":                            "",
		"30 Nov 2026 10:00:00 +00:00":                        "",
		"30 Nov 2026 10:00:00 +0060":                         "",
		"30 Nov 2026 10:00:00 0000":                          "",
		"30 Nov 2026 10:00:00 +000":                          "",
		"30 Nov 2026 10:00:00 +0000 x":                       "",
		"30 Nov 1899 10:00:00 +0000":                         "",
		"30 Nov 12026 10:00:00 +0000":                        "",
		"30 Nov 6 10:00:00 +0000":                            "",
		"030 Nov 2026 10:00:00 +0000":                        "",
		"+3 Nov 2026 10:00:00 +0000":                         "",
		"30 November 2026 10:00:00 +0000":                    "",
		"30 anf 2026 10:00:00 +0000":                         "",
		"2026-11-30T10:00:00Z":                               "",
		"Mon Nov 30 10:00:00 2026":                           "",
		"30 Nov 2026 10:00:00 (":                             "",
		"30 Nov 2026 10:00:00 +0000 \xff":                    "",
		strings.Repeat("1 ", 40):                             "",
	} {
		got, ok := ParseDate(value)
		if s := got.UTC().Format(time.RFC3339); ok != (want != "") || ok && s != want {
			t.Errorf("%q: %s, %v", value, s, ok)
		}
	}
}

// FuzzParseDate: what net/mail reads, with a year and a zone that RFC 5322 allows, has the same time here.
func FuzzParseDate(f *testing.F) {
	for _, s := range []string{"Mon, 30 Nov 2026 10:00:00 +0000", "30 Nov 26 10:00 EST (x)", "yesterday", "(", "1 Jan 50 0:00 Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := ParseDate(s)
		if ok && (got.Year() < 1899 || got.Year() > 10000) {
			t.Fatalf("%q: %v", s, got)
		}
		if ok {
			if again, ok := ParseDate(FormatDate(got)); got.Year() >= 1900 && got.Year() <= 9999 && (!ok || !again.Equal(got)) {
				t.Fatalf("%q: %v, then %v", s, got, again)
			}
		}
		want, err := mail.ParseDate(s)
		if _, zone := want.Zone(); ok && err == nil && !want.Equal(got) && (zone != 0 || strings.ContainsAny(s, "+-")) {
			t.Fatalf("%q: %v, and net/mail %v", s, got, want)
		}
	})
}

func TestReadUnusable(t *testing.T) {
	for fields, want := range map[string][]string{
		"Date: Mon, 30 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n": nil,
		"Subject: x\r\n":      nil,
		"Date:\r\n":           {"date"},
		"DATE: yesterday\r\n": {"date"},
		"Date: \r\nDate: 30 Nov 2026 10:00 Z\r\n":   {"date"},
		"Message-ID: <>\r\nMessage-ID: <1@x>\r\n":   {"message-id"},
		"Date: 30 Nov 2026 10:00 Z\r\nDate: \r\n":   {"date"},
		"Message-ID: \r\n":                          {"message-id"},
		"Message-Id: <>\r\n":                        {"message-id"},
		"Message-ID: (none) < @ >\r\n":              {"message-id"},
		"Message-ID: x\r\n":                         nil,
		"Message-ID: \r\nDate: \r\n":                {"date", "message-id"},
		"Resent-Date: x\r\nResent-Message-ID: \r\n": nil,
	} {
		if got := ReadUnusable(headerOf(t, fields)); !slices.Equal(got, want) {
			t.Errorf("%q: %v", fields, got)
		}
	}
}
