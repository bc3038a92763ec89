package decisionlog

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// service takes uploads. answer says what it answers to the nth request, from 1; 0: 200.
type service struct {
	*httptest.Server
	answer func(n int, w http.ResponseWriter, r request) int

	mu   sync.Mutex
	n    int
	ids  []string // of what was answered with 200
	last request
}

func serve(t *testing.T, answer func(n int, w http.ResponseWriter, r request) int) *service {
	t.Helper()
	s := &service{answer: answer}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := readRequest(t, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.n++
		s.last = got
		if code := s.answer(s.n, w, got); code != 0 {
			w.WriteHeader(code)
			return
		}
		for _, e := range got.events {
			var l struct{ ID string }
			if err := json.Unmarshal(e, &l); err != nil {
				t.Error(err)
			}
			s.ids = append(s.ids, l.ID)
		}
	}))
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *service) got() (requests int, ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, slices.Clone(s.ids)
}

func fine(int, http.ResponseWriter, request) int { return 0 }

// put n records and return their ids.
func put(t *testing.T, l *Log, n int) (ids []string) {
	t.Helper()
	for i := range n {
		id := fmt.Sprintf("%03d", i)
		if err := l.Record(context.Background(), record(id)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// TestUploadAnswers: what a service answers to the first requests, and what becomes of the lines.
func TestUploadAnswers(t *testing.T) {
	first := func(k, code int) func(int, http.ResponseWriter, request) int {
		return func(n int, _ http.ResponseWriter, _ request) int {
			if n <= k {
				return code
			}
			return 0
		}
	}
	for name, c := range map[string]struct {
		answer  func(int, http.ResponseWriter, request) int
		missing int
		reason  string
	}{
		"200":               {answer: fine},
		"500 and again":     {answer: first(3, 500)},
		"401 and again":     {answer: first(1, 401)},
		"400":               {answer: first(1, 400), missing: 10, reason: "upload_refused"},
		"413 for more than": {answer: func(_ int, _ http.ResponseWriter, r request) int { return tooMany(r, 3) }},
		"413 for every one": {answer: func(_ int, _ http.ResponseWriter, r request) int { return tooMany(r, 0) }, missing: 20, reason: "upload_refused"},
		"429": {answer: func(n int, w http.ResponseWriter, _ request) int {
			if n > 1 {
				return 0
			}
			w.Header().Set("Retry-After", "1")
			return 429
		}},
		"302": {answer: func(n int, w http.ResponseWriter, r request) int {
			if n > 1 {
				return 0
			}
			w.Header().Set("Location", "/elsewhere")
			return 302
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.answer)
			s.Start()
			reg := prometheus.NewRegistry()
			l := open(t, Options{Metrics: reg, Upload: &Upload{URL: s.URL, Interval: time.Millisecond, Batch: 10 * len(NewEntry(record("000")).AppendJSON(nil))}})
			ids := put(t, l, 20)
			until(t, "all is sent or lost", func() bool {
				_, got := s.got()
				return len(got)+int(counted(t, reg)[cmp.Or(c.reason, "write")]) >= len(ids)
			})
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			_, got := s.got()
			s.mu.Lock()
			path := s.last.path
			s.mu.Unlock()
			slices.Sort(got)
			switch lost := int(counted(t, reg)[cmp.Or(c.reason, "write")]); {
			case c.reason == "" && !slices.Equal(got, ids):
				t.Errorf("got %v", got)
			case len(got)+lost != 20 || c.missing == 20 && lost != 20 || c.reason != "" && lost == 0:
				t.Errorf("lost %d, got %d", lost, len(got))
			}
			if path != "/logs" || l.Lost() != 0 {
				t.Errorf("%s, the file lacks %d", path, l.Lost())
			}
			if in := logged(t, l.o.File); !slices.Equal(in, ids) {
				t.Errorf("in the file: %v", in)
			}
		})
	}
}

func tooMany(r request, most int) int {
	if len(r.events) > most {
		return http.StatusRequestEntityTooLarge
	}
	return 0
}

// TestServiceDown: lines wait while the service is down, and decisions are not delayed, with Strict and without.
func TestServiceDown(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := hole.Addr().String()
	hole.Close()
	l := open(t, Options{Strict: true, Upload: &Upload{URL: "http://" + addr, Interval: time.Millisecond, Drain: 30 * time.Second}})
	ids := put(t, l, 20)
	s := serve(t, fine)
	if s.Listener, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got := s.got(); !slices.Equal(got, ids) {
		t.Errorf("got %v", got)
	}
}

// TestServiceSlow: a request is given up after a while and sent again.
func TestServiceSlow(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	tries := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		tries++
		first := tries == 1
		mu.Unlock()
		if first {
			<-release
		}
	}))
	defer srv.Close()
	defer close(release)
	reg := prometheus.NewRegistry()
	l := open(t, Options{Metrics: reg, Upload: &Upload{URL: srv.URL, Timeout: 200 * time.Millisecond, Drain: 30 * time.Second}})
	put(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := counted(t, reg); tries < 2 || n["upload_shutdown"] != 0 {
		t.Errorf("%d tries, lost %v", tries, n)
	}
}

// TestCloseIsBounded: a service that never answers does not hold the program.
func TestCloseIsBounded(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	reg := prometheus.NewRegistry()
	l := open(t, Options{Metrics: reg, Upload: &Upload{URL: srv.URL, Batch: 1, Timeout: time.Hour, Drain: 50 * time.Millisecond}})
	put(t, l, 20)
	ended := make(chan error, 1)
	go func() { ended <- l.Close() }()
	if err := wait(t, ended); err != nil {
		t.Error(err)
	}
	if n := counted(t, reg); n["upload_shutdown"] != 20 || l.Lost() != 0 {
		t.Errorf("lost %v", n)
	}
}

// TestBufferIsBounded: with the service away, the newest lines that fit wait, and the others are counted.
func TestBufferIsBounded(t *testing.T) {
	line := len(NewEntry(record("000")).AppendJSON(nil)) + 80 // with labels and number
	reg := prometheus.NewRegistry()
	s := serve(t, func(int, http.ResponseWriter, request) int { return 503 })
	s.Start()
	l := open(t, Options{Strict: true, Metrics: reg, Upload: &Upload{URL: s.URL, Interval: time.Millisecond, Batch: 5 * line, Buffer: 50 * line, Drain: 30 * time.Second}})
	ids := put(t, l, 500)
	l.upload.buffer.mu.Lock()
	held := l.upload.buffer.octets
	l.upload.buffer.mu.Unlock()
	if held > 50*line {
		t.Errorf("%d octets are held, %d may be", held, 50*line)
	}
	s.mu.Lock()
	s.answer = fine
	s.mu.Unlock()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, got := s.got()
	lost := int(counted(t, reg)["upload_buffer"])
	if len(got) == 0 || lost < 400 || len(got)+lost != 500 || got[len(got)-1] != ids[499] {
		t.Errorf("got %d, lost %d, the last %v", len(got), lost, got[max(len(got)-1, 0):])
	}
	if in := logged(t, l.o.File); !slices.Equal(in, ids) {
		t.Errorf("the file has %d", len(in))
	}
}

// TestUploadAndFile: what a strict log could not write was not carried out, and is not uploaded; otherwise the service has
// what the file lacks.
func TestUploadAndFile(t *testing.T) {
	for _, strict := range []bool{true, false} {
		s := serve(t, fine)
		s.Start()
		l := open(t, Options{File: "/dev/full", Strict: strict, Upload: &Upload{URL: s.URL}})
		if err := l.Record(context.Background(), record("x")); strict != (err != nil) {
			t.Errorf("strict %v: %v", strict, err)
		}
		l.Close()
		if _, got := s.got(); strict == (len(got) == 1) {
			t.Errorf("strict %v: uploaded %v", strict, got)
		}
	}
	if _, err := Open(Options{Strict: true, Upload: &Upload{URL: "http://127.0.0.1:1"}}); err == nil {
		t.Error("strict without a file")
	}
	if _, err := Open(Options{Upload: &Upload{URL: "ftp://127.0.0.1"}}); err == nil {
		t.Error("a URL that is none of a service")
	}
}

// TestTLSAndToken: a service by our own authority, and a token that is renewed on disk.
func TestTLSAndToken(t *testing.T) {
	token := written(t, "old\nsecond line\n")
	s := serve(t, func(n int, _ http.ResponseWriter, r request) int {
		switch auth := r.header.Get("Authorization"); {
		case auth == "Bearer old":
			if err := os.WriteFile(token, []byte("new\n"), 0o600); err != nil {
				t.Error(err)
			}
			return 403
		case auth != "Bearer new":
			t.Errorf("Authorization: %q", auth)
		}
		return 0
	})
	s.StartTLS()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	l := open(t, Options{Upload: &Upload{URL: s.URL, Roots: roots, TokenFile: token, Drain: 30 * time.Second}})
	put(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, got := s.got(); n != 2 || len(got) != 1 {
		t.Errorf("%d requests, %v", n, got)
	}
	reg := prometheus.NewRegistry()
	stranger := open(t, Options{Metrics: reg, Upload: &Upload{URL: s.URL, TokenFile: token, Drain: 100 * time.Millisecond}})
	put(t, stranger, 1)
	stranger.Close()
	if n, _ := s.got(); n != 2 || counted(t, reg)["upload_shutdown"] != 1 {
		t.Errorf("sent to a service whose certificate does not verify: %d requests, %v", n, counted(t, reg))
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "x": 0, "7": 7 * time.Second, "-7": 0, "999999999999": longestAfter, now.Add(time.Minute).Format(http.TimeFormat): time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0, now.Add(48 * time.Hour).Format(http.TimeFormat): longestAfter,
	} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}
