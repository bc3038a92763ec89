package socket_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/socket"
)

// pair is a connected pair of sockets; ours is direct.
func pair(t *testing.T, network string) (ours, theirs net.Conn) {
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
	plain, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours = socket.Direct(plain)
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// each runs f over both kinds of sockets.
func each(t *testing.T, f func(t *testing.T, ours, theirs net.Conn)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ours, theirs := pair(t, network)
			f(t, ours, theirs)
		})
	}
}

// More than any socket holds goes both ways at once, in pieces of every size, and comes as it was sent.
func TestAllOctetsBothWays(t *testing.T) {
	each(t, func(t *testing.T, ours, theirs net.Conn) {
		sent := make([]byte, 8<<20)
		for i := range sent {
			sent[i] = byte(rand.Uint32())
		}
		var all sync.WaitGroup
		for _, way := range [][2]net.Conn{{ours, theirs}, {theirs, ours}} {
			all.Go(func() {
				for left := sent; len(left) > 0; {
					n := min(len(left), 1+rand.IntN(3<<20))
					if k, err := way[0].Write(left[:n]); k != n || err != nil {
						t.Errorf("Write of %d: %d, %v", n, k, err)
						return
					}
					left = left[n:]
				}
				if err := way[0].(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				if got, err := io.ReadAll(way[1]); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d of %d octets came, %v", len(got), len(sent), err)
				}
			})
		}
		all.Wait()
	})
}

// What ends a call is told as package net tells it.
func TestErrors(t *testing.T) {
	told := func(t *testing.T, err error, op string, is error, timeout bool) {
		t.Helper()
		var e *net.OpError
		if !errors.Is(err, is) || !errors.As(err, &e) || e.Op != op || e.Source == nil || e.Addr == nil || e.Timeout() != timeout {
			t.Errorf("%s: %#v (%v), want %v", op, err, err, is)
		}
	}
	buf := make([]byte, 10)
	each(t, func(t *testing.T, ours, theirs net.Conn) {
		ours.SetReadDeadline(time.Now().Add(-time.Second))
		_, err := ours.Read(buf)
		told(t, err, "read", os.ErrDeadlineExceeded, true)
		ours.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err = ours.Read(buf)
		told(t, err, "read", os.ErrDeadlineExceeded, true)
		ours.SetReadDeadline(time.Time{})
		// A write that fills all buffers waits for its deadline, and says how much has gone.
		much, n := make([]byte, 64<<20), 0
		for wait := 50 * time.Millisecond; n == 0 && wait < time.Minute; wait *= 2 { // longer where the machine is busy
			ours.SetWriteDeadline(time.Now().Add(wait))
			n, err = ours.Write(much)
			told(t, err, "write", os.ErrDeadlineExceeded, true)
		}
		if n == 0 || n == len(much) {
			t.Errorf("%d octets written", n)
		}
		got := make(chan int)
		go func() {
			k, _ := io.Copy(io.Discard, theirs)
			got <- int(k)
		}()
		// Closing wakes who reads.
		go func() {
			time.Sleep(20 * time.Millisecond)
			ours.Close()
		}()
		_, err = ours.Read(buf)
		told(t, err, "read", net.ErrClosed, false)
		_, err = ours.Write(buf)
		told(t, err, "write", net.ErrClosed, false)
		if k := <-got; k != n {
			t.Errorf("the other side got %d octets, %d were said to be written", k, n)
		}
	})
}

// What the other side does shows: a half close as io.EOF, a reset as such.
func TestOtherSideGone(t *testing.T) {
	buf := make([]byte, 10)
	each(t, func(t *testing.T, ours, theirs net.Conn) {
		theirs.Close()
		if n, err := ours.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("Read: %d, %v", n, err)
		}
		var err error
		for end := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(end); {
			_, err = ours.Write(buf)
		}
		var call *os.SyscallError
		if !errors.As(err, &call) || call.Syscall != "write" {
			t.Errorf("Write: %v", err)
		}
	})
	ours, theirs := pair(t, "tcp")
	theirs.(*net.TCPConn).SetLinger(0)
	theirs.Close()
	if _, err := ours.Read(buf); err == nil || err == io.EOF {
		t.Errorf("after a reset: %v", err)
	}
}

func TestNothing(t *testing.T) {
	each(t, func(t *testing.T, ours, theirs net.Conn) {
		if n, err := ours.Read(nil); n != 0 || err != nil {
			t.Errorf("Read: %d, %v", n, err)
		}
		if n, err := ours.Write(nil); n != 0 || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
	})
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if socket.Direct(a) != a {
		t.Error("a pipe is no socket")
	}
	if _, ok := socket.Readable(a); ok {
		t.Error("of a pipe it cannot be told")
	}
	if socket.QuickAck(a) != nil {
		t.Error("a pipe acknowledges nothing")
	}
}

func TestReadable(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("Readable cannot tell on Windows")
		return
	}
	each(t, func(t *testing.T, ours, theirs net.Conn) {
		want := func(when string, want bool) {
			t.Helper()
			var yes, ok bool
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && (yes != want || !ok); time.Sleep(time.Millisecond) {
				yes, ok = socket.Readable(ours)
			}
			if yes != want || !ok {
				t.Errorf("%s: %v, %v", when, yes, ok)
			}
		}
		want("nothing", false)
		theirs.Write([]byte("x"))
		want("an octet", true)
		ours.Read(make([]byte, 2))
		want("read", false)
		theirs.Close()
		want("ended", true)
		ours.Close()
		want("closed", true)
	})
}

// QuickAck is there for TCP alone, and harmless on a socket that is closed; that it helps is shown beside a real Postfix (milter).
func TestQuickAck(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	ack := socket.QuickAck(ours)
	if runtime.GOOS != "linux" {
		t.Log("QuickAck is Linux's")
		return
	}
	if ack == nil {
		t.Fatal("no function")
	}
	ack()
	theirs.Write([]byte("x"))
	ours.Read(make([]byte, 2))
	ours.Close()
	ack() // does nothing, does not panic
	unix, _ := pair(t, "unix")
	if socket.QuickAck(unix) != nil {
		t.Error("a unix socket acknowledges nothing")
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, kind := range []string{"plain", "direct"} {
		b.Run("way="+kind, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			if kind == "direct" {
				c = socket.Direct(c)
			}
			buf := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
