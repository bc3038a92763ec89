package flood

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// Environment variables of the process that floods.
const (
	floodKind = "POSTERN_FLOOD"
	floodAddr = "POSTERN_FLOOD_ADDR"
)

// tally counts what the flooding clients were told: the first line of each reply, or how a connection ended.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *tally) add(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.counts[what]; !known && len(t.counts) > 50 {
		what = "other"
	}
	t.counts[what]++
}

// startFlood starts a process that floods addr. The system gives it only the time that nobody else wants (SCHED_IDLE), so that the
// server and the good clients are held up by the work that the flood makes for the server, and not by the flooding clients. stop ends
// the process and returns what its clients were told.
func startFlood(t *testing.T, kind, addr string) (stop func() map[string]int) {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "util-linux", "chrt"), "--idle", "0", os.Args[0])
	cmd.Env = append(os.Environ(), floodKind+"="+kind, floodAddr+"="+addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	testenv.Must(t, err)
	out, err := cmd.StdoutPipe()
	testenv.Must(t, err)
	testenv.Must(t, cmd.Start())
	began := make(chan error, 1)
	rd := bufio.NewReader(out)
	go func() { _, err := rd.ReadString('\n'); began <- err }() // ends with the process at the latest
	select {
	case err = <-began:
	case <-time.After(20 * time.Second):
		err = fmt.Errorf("the flood did not begin within 20 s")
	}
	var once sync.Once
	told := map[string]int{}
	stop = func() map[string]int {
		once.Do(func() {
			in.Close()
			kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
			defer kill.Stop()
			if err := json.NewDecoder(rd).Decode(&told); err != nil {
				t.Errorf("the flood: %v", err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the flood ended with %v", err)
			}
		})
		return told
	}
	t.Cleanup(func() { stop() })
	testenv.Must(t, err)
	return stop
}

// runFlood floods addr until standard input ends. It prints a line once it has begun, and at its end what its clients were told.
func runFlood(kind, addr string) {
	t := &tally{counts: map[string]int{}}
	f := &flooder{addr: addr, told: t, config: &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}}
	worker, workers, addresses := f.worker(kind)
	var ready sync.WaitGroup
	ready.Add(workers)
	for n := range workers {
		go func() {
			first := sync.OnceFunc(ready.Done)
			time.AfterFunc(3*time.Second, first)
			for {
				c, err := f.dial(n % addresses)
				if err != nil {
					t.add("not connected")
					first()
					time.Sleep(20 * time.Millisecond)
					continue
				}
				worker(c, first)
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}()
	}
	ready.Wait()
	fmt.Println("began")
	io.Copy(io.Discard, os.Stdin)
	t.mu.Lock() // until the process ends
	json.NewEncoder(os.Stdout).Encode(t.counts)
}

// flooder is what the clients of a flood share.
type flooder struct {
	addr   string
	told   *tally
	config *tls.Config
}

// dial connects from one of the addresses of the flood.
func (f *flooder) dial(n int) (net.Conn, error) {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, byte(n>>8), byte(n+1))}, Timeout: 20 * time.Second}
	return from.Dial("tcp", f.addr)
}

// worker returns what each connection of a kind does, how many there are at a time, and from how many addresses. A worker calls first
// once it has begun.
func (f *flooder) worker(kind string) (worker func(c net.Conn, first func()), workers, addresses int) {
	switch kind {
	case "handshakes":
		hello := clientHello()
		return func(c net.Conn, first func()) { first(); f.handshake(c, hello) }, 80, 4
	case "dribble":
		return f.dribble, 900, 18
	case "one address":
		return f.dribble, 200, 1
	case "auth":
		return f.guess, 120, 20
	case "command lines":
		return f.commandLines, 40, 4
	case "message lines":
		return f.messageLines, 8, 2
	case "milter":
		return f.negotiate, 3000, 50
	}
	if header := oneLoginHeaders()[kind]; header != "" {
		return func(c net.Conn, first func()) { f.submit(c, header, first) }, 6, 6
	}
	panic("unknown kind of flood: " + kind)
}

// handshake begins a handshake and waits for the server's part of it. The client spends nothing, and the server signs.
func (f *flooder) handshake(c net.Conn, hello []byte) {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(hello)
	if n, _ := c.Read(make([]byte, 4096)); n > 0 {
		f.told.add("handshake")
	} else {
		f.told.add("handshake refused")
	}
}

// clientHello is the first record of a TLS client.
func clientHello() []byte {
	client, server := net.Pipe()
	defer client.Close()
	go tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() // ends with the pipe
	b := make([]byte, 4096)
	n, _ := server.Read(b)
	return b[:n]
}

// dribble sends a command that never ends, an octet at a time; every third client sends a TLS record.
func (f *flooder) dribble(c net.Conn, first func()) {
	first()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.reply(bufio.NewReader(c))
		f.reply(bufio.NewReader(c)) // what comes at the end
	}()
	for {
		select {
		case <-done:
			return
		case <-time.After(200*time.Millisecond + rand.N(100*time.Millisecond)):
		}
		if _, err := io.WriteString(c, "E"); err != nil {
			<-done
			return
		}
	}
}

// reply reads a reply, and counts its last line.
func (f *flooder) reply(r *bufio.Reader) string {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return ""
		}
		if len(line) < 4 || line[3] == ' ' {
			line = strings.TrimSpace(line)
			f.told.add(line)
			return line
		}
	}
}

// secured begins TLS and sends EHLO.
func (f *flooder) secured(raw net.Conn) (net.Conn, *bufio.Reader) {
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(raw, f.config)
	r := bufio.NewReader(c)
	if !strings.HasPrefix(f.reply(r), "220") {
		return nil, nil
	}
	io.WriteString(c, "EHLO flood.example\r\n")
	f.reply(r)
	return c, r
}

// guess tries one login and password after another, until it is sent away.
func (f *flooder) guess(raw net.Conn, first func()) {
	defer first()
	c, r := f.secured(raw)
	for c != nil {
		login := fmt.Sprintf("guess%d", rand.IntN(1e6))
		first()
		io.WriteString(c, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00wrong"))+"\r\n")
		if line := f.reply(r); line == "" || strings.HasPrefix(line, "421") {
			return
		}
	}
}

// commandLines sends a command line of 1 MiB.
func (f *flooder) commandLines(c net.Conn, first func()) {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	f.reply(r)
	first()
	io.WriteString(c, "NOOP "+strings.Repeat("x", 1<<20)+"\r\n")
	f.reply(r)
}

// messageLines logs in and sends messages with a line of 1 MiB: one that is within the limit, and one that is not.
func (f *flooder) messageLines(raw net.Conn, first func()) {
	defer first()
	c, r := f.secured(raw)
	if c == nil {
		return
	}
	io.WriteString(c, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00mallory\x00"+flooderPassword))+"\r\n")
	f.reply(r)
	for _, size := range []int{1<<20 - 2, 1<<20 + 1, 1<<20 - 2, 1<<20 + 1} {
		first()
		for _, line := range []string{"MAIL FROM:<mallory@example.com>", "RCPT TO:<bob@example.net>", "DATA"} {
			io.WriteString(c, line+"\r\n")
			if line := f.reply(r); line == "" || line[0] > '3' {
				return
			}
		}
		io.WriteString(c, "From: mallory@example.com\r\nTo: bob@example.net\r\n\r\n"+strings.Repeat("x", size)+"\r\n.\r\n")
		f.reply(r)
	}
}

// submit logs in and sends messages with a header, one after another.
func (f *flooder) submit(raw net.Conn, header string, first func()) {
	defer first()
	c, r := f.secured(raw)
	if c == nil {
		return
	}
	io.WriteString(c, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00mallory\x00"+flooderPassword))+"\r\n")
	f.reply(r)
	for {
		raw.SetDeadline(time.Now().Add(20 * time.Second))
		for _, line := range []string{"MAIL FROM:<mallory@example.com>", "RCPT TO:<bob@example.net>", "DATA"} {
			io.WriteString(c, line+"\r\n")
			if line := f.reply(r); line == "" || line[0] > '3' {
				return
			}
		}
		first()
		io.WriteString(c, header+"\r\nx\r\n.\r\n")
		if f.reply(r) == "" {
			return
		}
	}
}

// negotiate opens a milter connection, says which client came, and keeps it.
func (f *flooder) negotiate(c net.Conn, first func()) {
	first()
	io.WriteString(c, testmilter.Offer()+testmilter.Frame('C', testmilter.GoodConnect)+testmilter.Frame('H', "client\x00"))
	b := make([]byte, 4096)
	for began := false; ; began = true {
		if _, err := c.Read(b); err != nil {
			return
		}
		if !began {
			f.told.add("negotiated")
		}
	}
}
