package wire

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testpipe"
)

// TestEndless: a message that is too large is read up to a bound.
func TestEndless(t *testing.T) {
	t.Parallel()
	to := &kept{}
	s := &Body{Store: to, Max: 10, Line: 1 << 20, Endless: 20}
	for i, want := range []error{nil, nil, nil, nil, ErrEndless} {
		if err := s.put([]byte("12345")); err != want {
			t.Errorf("put %d: %v", i, err)
		}
	}
	if s.err != message.ErrTooLarge || to.String() != "1234512345" || to.closed != 1 {
		t.Errorf("%v %q, closed %d times", s.err, to.String(), to.closed)
	}
}

// TestReadDataCuts compares ReadData of the whole message with ReadData of two pieces, for every cut.
func TestReadDataCuts(t *testing.T) {
	t.Parallel()
	for _, wire := range append(testpipe.Endings(), "\r\n.\r\n", "\r\n..\r\n.\r\n", "\r\n.x\r\n.\r\n", "\r\n..x.\r\n\r\n.\r\n") {
		text := "a" + wire + "tail\r\n.\r\n"
		want, wantLeft, wantErr := readAll(text, len(text))
		for cut := range len(text) {
			got, left, err := readAll(text, cut)
			if got != want || (err == nil) != (wantErr == nil) || left != wantLeft { // of two faults either may be seen first
				t.Errorf("%q cut at %d: %q %v, %d left; whole: %q %v, %d left", text, cut, got, err, left, want, wantErr, wantLeft)
			}
		}
	}
}

// TestChunkCuts compares ReadChunk of the whole message with ReadChunk of two chunks, for every cut.
func TestChunkCuts(t *testing.T) {
	t.Parallel()
	for _, ending := range append(testpipe.Endings(), "\r\n", "\r", "", "\r\n.\r\n", "\r\n\r\n") {
		for _, tail := range []string{"", "tail"} {
			text := "a" + ending + tail
			want, wantErr := readChunks(text)
			if bad := message.CheckLines([]byte(text)) != nil || strings.Contains(text, "\x00"); bad != (wantErr != nil) || !bad && strings.TrimSuffix(want, "\r\n") != strings.TrimSuffix(text, "\r\n") {
				t.Errorf("%q: %q, %v", text, want, wantErr)
			}
			for cut := range len(text) {
				got, err := readChunks(text[:cut], text[cut:])
				if got != want || (err == nil) != (wantErr == nil) {
					t.Errorf("%q cut at %d: %q, %v; whole: %q, %v", text, cut, got, err, want, wantErr)
				}
			}
		}
	}
}

// readChunks reads a message that comes in these chunks.
func readChunks(chunks ...string) (body string, err error) {
	here, there := testpipe.New()
	c, to := testConn(here), &kept{}
	b := &Body{Store: to, Max: 1 << 20, Line: 1 << 20, Endless: 1 << 20}
	for _, text := range chunks {
		there.Write([]byte(text))
		if err := c.ReadChunk(int64(len(text)), b, &Pace{Window: time.Minute}); err != nil {
			return "", err
		}
	}
	if err := b.EndLine(); err != nil {
		return "", err
	}
	return to.String(), nil
}

// TestPace: a window ends unless it has brought a kilobyte, and no window goes beyond the end.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := &Pace{Window: time.Minute, End: start.Add(150 * time.Second)}
		for _, c := range []struct {
			after time.Duration
			got   int
			want  time.Duration
		}{
			{0, 0, time.Minute},
			{30 * time.Second, 1, time.Minute}, // no progress
			{10 * time.Second, minProgress - 2, time.Minute},
			{10 * time.Second, 1, 110 * time.Second}, // at 50 s
			{50 * time.Second, minProgress, 150 * time.Second},
			{40 * time.Second, 1 << 20, 150 * time.Second},
		} {
			time.Sleep(c.after)
			if got := p.deadline(c.got).Sub(start); got != c.want {
				t.Errorf("at %v: %v, want %v", time.Since(start), got, c.want)
			}
		}
	})
}

// readAll reads a message that comes in two pieces, and returns how many octets were left unread if there was no error.
func readAll(text string, cut int) (body string, left int, err error) {
	here, there := testpipe.New()
	there.Write([]byte(text[:cut]))
	there.Write([]byte(text[cut:]))
	there.Close()
	c, to := testConn(here), &kept{}
	err = c.ReadData(&Body{Store: to, Max: 1 << 20, Line: 1 << 20, Endless: 1 << 20}, &Pace{Window: time.Minute})
	if err != nil {
		return "", 0, err
	}
	return to.String(), here.Unread() + c.Buffered(), nil
}

// testConn reads from conn, without a session.
func testConn(conn net.Conn) *Conn {
	return NewServer(Options{CommandLine: 2048, Write: time.Minute, Log: slog.New(slog.DiscardHandler)}).NewConn(conn, nil)
}

// kept is a store that keeps what it is given.
type kept struct {
	strings.Builder
	closed int
}

func (k *kept) Close() error { k.closed++; return nil }

// BenchmarkReadData removes dot-stuffing block by block. go-smtp does it octet by octet, which takes 90 % of its time at 100 KB.
func BenchmarkReadData(b *testing.B) {
	for name, line := range map[string]string{"plain": strings.Repeat("x", 76) + "\r\n", "dots": ".." + strings.Repeat("x", 74) + "\r\n"} {
		b.Run("lines="+name, func(b *testing.B) {
			text := []byte(strings.Repeat(line, 100<<10/78) + ".\r\n")
			conn := &repeating{text: text}
			c := testConn(conn)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				conn.at = 0
				if err := c.ReadData(&Body{Store: nowhere{}, Max: 1 << 30, Line: 1 << 20, Endless: 1 << 30}, &Pace{Window: time.Minute}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// repeating is a connection that delivers one text again and again.
type repeating struct {
	testpipe.End
	text []byte
	at   int
}

func (r *repeating) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at += n
	return n, nil
}

func (r *repeating) SetReadDeadline(time.Time) error { return nil }

// nowhere is a store that keeps nothing.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }
