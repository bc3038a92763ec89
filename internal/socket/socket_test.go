package socket_test

import (
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/socket"
)

// connect returns the two ends of a connection over loopback TCP or a unix socket.
func connect(t *testing.T, network string) (ours, theirs net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestReadable(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("Readable cannot tell on Windows")
		return
	}
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ours, theirs := connect(t, network)
			want := func(when string, want bool) {
				t.Helper()
				var readable, ok bool
				for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && (readable != want || !ok); time.Sleep(time.Millisecond) {
					readable, ok = socket.Readable(ours)
				}
				if readable != want || !ok {
					t.Errorf("%s: readable %v, ok %v", when, readable, ok)
				}
			}
			want("nothing was sent", false)
			theirs.Write([]byte("x"))
			want("an octet was sent", true)
			ours.Read(make([]byte, 2))
			want("it was read", false)
			theirs.Close()
			want("the other end has closed", true)
			ours.Close()
			want("this end has closed", true)
		})
	}
}

// TestNoSocket: nothing can be said or set where a connection is no socket.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, ok := socket.Readable(a); ok {
		t.Error("Readable claims to know about a pipe")
	}
	if socket.QuickAck(a) != nil {
		t.Error("QuickAck returns a function for a pipe")
	}
}

// TestQuickAck: there is a function for TCP only, and it does no harm once the socket is closed. That it helps is shown beside a
// real Postfix (package milter).
func TestQuickAck(t *testing.T) {
	ours, theirs := connect(t, "tcp")
	acknowledge := socket.QuickAck(ours)
	if runtime.GOOS != "linux" {
		if acknowledge != nil {
			t.Error("QuickAck is for Linux")
		}
		return
	}
	if acknowledge == nil {
		t.Fatal("no function for TCP")
	}
	acknowledge()
	theirs.Write([]byte("x"))
	ours.Read(make([]byte, 2))
	ours.Close()
	acknowledge()
	if unix, _ := connect(t, "unix"); socket.QuickAck(unix) != nil {
		t.Error("a function for a unix socket")
	}
}
