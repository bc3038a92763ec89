package load

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// loadMessages is how many go through the reloads.
const loadMessages = 10_000

// TestReloadUnderLoad submits ten thousand messages while the policy is changed on disk and SIGHUP is sent every 100 ms. Every
// message is decided by exactly one revision, from MAIL to its end; none is lost, none comes twice, none is answered by an error.
// Some clients pipeline as fast as they can, others wait in the middle of their transactions, so that those span reloads.
func TestReloadUnderLoad(t *testing.T) {
	addr, dir := e2e.SMTPSink(t, "-D", "all")
	s, bundle := startLoadSite(t, "smtp://"+addr)
	began := time.Now()
	stop, stopped := make(chan struct{}), make(chan int, 1)
	go func() { stopped <- reloadOften(t, s, bundle, stop) }()
	var next atomic.Int64
	var clients sync.WaitGroup
	for i := range 12 {
		clients.Go(func() {
			if err := submitLoad(s.TLS, i >= 4, &next); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	clients.Wait()
	close(stop)
	reloads := <-stopped
	t.Logf("%d messages in %v, %d reloads asked for", loadMessages, time.Since(began).Round(time.Millisecond), reloads)
	if err := s.Process.Stop(syscall.SIGTERM); err != nil {
		t.Errorf("postern serve ended with %v", err)
	}
	allArrived(t, filepath.Join(dir, "all"))
	oneRevisionEach(t, filepath.Join(s.Dir, "decisions.jsonl"))
	log, err := os.ReadFile(s.Process.Log)
	if err != nil {
		t.Fatal(err)
	}
	if bad := regexp.MustCompile(`(?m)^.*"level":"(ERROR|WARN)".*$`).Find(log); bad != nil {
		t.Errorf("the log complains: %s", bad)
	}
}

// startLoadSite has a policy that notes, at each stage, which code and which data decided.
func startLoadSite(t *testing.T, hop string) (s *e2e.Site, bundle string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	for _, stage := range []string{"mail", "rcpt", "message"} {
		testenv.Write(t, filepath.Join(dir, "postern", stage, "p.rego"), "package postern."+stage+`

allow contains "load"

note contains {"code": data.postern.lib.tag.code, "data": data.tag}
`)
	}
	loadRevision(t, dir, 0)
	loadRevision(t, dir, 1)
	s = e2e.StartSite(t, hop, "policy: {bundle: '"+dir+"', timeout: 5s}\ndecision_log: {file: decisions.jsonl, strict: true}\n"+
		"submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0'}\nlog: {format: json}\n")
	return s, dir
}

// loadRevision changes code or data in turn, as an editor does: by renaming a new file over the old.
func loadRevision(t *testing.T, dir string, n int) {
	file, text := "postern/lib/tag.rego", fmt.Sprintf("package postern.lib.tag\n\ncode := \"c%d\"\n", n)
	if n%2 == 1 {
		file, text = "data.json", fmt.Sprintf(`{"tag": "d%d"}`, n)
	}
	path := filepath.Join(dir, file)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path+"~", []byte(text), 0o600)
	}
	if err == nil {
		err = os.Rename(path+"~", path)
	}
	if err != nil {
		t.Error(err)
	}
}

func reloadOften(t *testing.T, s *e2e.Site, bundle string, stop <-chan struct{}) int {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 2; ; n++ {
		select {
		case <-stop:
			return n - 2
		case <-tick.C:
		}
		loadRevision(t, bundle, n)
		if err := s.Process.Signal(syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
}

// submitLoad takes message after message until there are none left, over one connection.
func submitLoad(addr string, slow bool, next *atomic.Int64) error {
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	c := &loadClient{conn: conn, r: bufio.NewReader(conn), slow: slow}
	c.say("EHLO laptop.example.com", "220", "250")
	c.say("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+e2e.Login+"\x00"+e2e.Password)), "235")
	for c.err == nil {
		n := next.Add(1)
		if n > loadMessages {
			c.say("QUIT", "221")
			break
		}
		c.message(n)
	}
	return c.err
}

type loadClient struct {
	conn net.Conn
	r    *bufio.Reader
	slow bool
	err  error
}

func (c *loadClient) message(n int64) {
	mail, rcpt := "MAIL FROM:<"+e2e.Address+">", fmt.Sprintf("RCPT TO:<bob%d@example.net>", n)
	text := fmt.Sprintf("From: %s\r\nTo: bob@example.net\r\nSubject: load\r\nMessage-ID: <%d@load.example.com>\r\n\r\nHello.\r\n", e2e.Address, n)
	switch {
	case c.slow:
		c.say(mail, "250")
		c.rest()
		c.say(rcpt, "250")
		c.rest()
		c.say("DATA", "354")
		c.rest()
		c.say(text+".", "250")
	case n%2 == 0: // all of it in one write (RFC 3030 §4.2)
		c.say(fmt.Sprintf("%s\r\n%s\r\nBDAT %d LAST\r\n%s", mail, rcpt, len(text), strings.TrimSuffix(text, "\r\n")), "250", "250", "250")
	default:
		c.say(mail+"\r\n"+rcpt+"\r\nDATA", "250", "250", "354")
		c.say(text+".", "250")
	}
	if c.err != nil {
		c.err = fmt.Errorf("message %d: %w", n, c.err)
	}
}

// rest is what makes a transaction span reloads.
func (c *loadClient) rest() { time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) }

// say sends text and wants replies with the given codes.
func (c *loadClient) say(text string, codes ...string) {
	if c.err == nil {
		_, c.err = io.WriteString(c.conn, text+"\r\n")
	}
	for _, code := range codes {
		for line := code + "-"; c.err == nil && len(line) > 3 && line[3] == '-'; {
			if line, c.err = c.r.ReadString('\n'); c.err == nil && !strings.HasPrefix(line, code) {
				c.err = fmt.Errorf("got %q, want %s", line, code)
			}
		}
	}
}

// allArrived wants each message once in what the sink wrote.
func allArrived(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^Message-ID: <(\d+)@load`).FindAllSubmatch(text, -1) {
		times[string(m[1])]++
	}
	for n := 1; n <= loadMessages; n++ {
		if k := times[fmt.Sprint(n)]; k != 1 {
			t.Errorf("message %d arrived %d times", n, k)
		}
	}
}

// loadDecision is what of a line of the decision log tells who decided.
type loadDecision struct {
	ID, Stage, Revision string
	Result              struct {
		Verdict string
		Notes   []struct{ Code, Data string }
	}
}

// oneRevisionEach reads the decision log: each transaction has one decision a stage, all by the same revision, code and data.
func oneRevisionEach(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type transaction struct {
		revision, tag string
		stages        map[string]int
	}
	transactions, tags := map[string]*transaction{}, map[string]string{}
	newest, spanned := "", 0
	for line := range bytes.Lines(text) {
		var d loadDecision
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		tag := fmt.Sprint(d.Result.Notes)
		if d.Result.Verdict != "accept" || len(d.Result.Notes) != 1 {
			t.Errorf("%s", line)
		}
		if known, ok := tags[d.Revision]; ok && known != tag {
			t.Errorf("revision %s decided as %s and as %s", d.Revision, known, tag)
		}
		tags[d.Revision] = tag
		tx := transactions[d.ID]
		if tx == nil {
			tx = &transaction{d.Revision, tag, map[string]int{}}
			transactions[d.ID] = tx
			newest = d.Revision
		}
		tx.stages[d.Stage]++
		if tx.revision != d.Revision || tx.tag != tag {
			t.Errorf("transaction %s was decided by %s %s and by %s %s", d.ID, tx.revision, tx.tag, d.Revision, tag)
		}
		if d.Stage == "message" && d.Revision != newest {
			spanned++
		}
	}
	for id, tx := range transactions {
		if len(tx.stages) != 3 || tx.stages["mail"] != 1 || tx.stages["rcpt"] != 1 || tx.stages["message"] != 1 {
			t.Errorf("transaction %s has the decisions %v", id, tx.stages)
		}
	}
	t.Logf("%d transactions by %d revisions, %d of them while another was active", len(transactions), len(tags), spanned)
	if len(transactions) != loadMessages || len(tags) < 20 || spanned < 20 {
		t.Errorf("%d transactions by %d revisions, %d of them while another was active: not what this test is for", len(transactions), len(tags), spanned)
	}
}
