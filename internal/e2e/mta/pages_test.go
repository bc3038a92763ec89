package mta

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// page is a page of docs/ that says how to attach a mail server. Its configuration is in fenced blocks whose first line names
// the file; what the tests start is those, with paths and ports of their own.
type page map[string][]string

var fenced = regexp.MustCompile("(?m)^```[a-z0-9]+\n(?:#|dnl) ([A-Za-z_/]+\\.[a-z]+)\n((?s:.*?))^```$")

func readPage(t *testing.T, name string) page {
	t.Helper()
	text, err := os.ReadFile(e2e.Path(t, "docs/how-to/"+name))
	if err != nil {
		t.Fatal(err)
	}
	p := page{}
	for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
		p[m[1]] = append(p[m[1]], m[2])
	}
	for _, m := range regexp.MustCompile("(?m)^```([a-z]+)\n(.*)").FindAllStringSubmatch(string(text), -1) {
		if m[1] != "sh" && m[1] != "text" && !regexp.MustCompile(`^(#|dnl) [A-Za-z_/]+\.[a-z]+$`).MatchString(m[2]) {
			t.Errorf("%s: the block that begins with %q does not name its file, so that nothing tests it", name, m[2])
		}
	}
	return p
}

// besideSite is a directory in which the paths of the pages have their place.
type besideSite struct {
	*e2e.Site
	paths *strings.Replacer
}

func startBeside(t *testing.T, parent string) *besideSite {
	t.Helper()
	s := e2e.EmptySiteIn(t, parent)
	dir := s.Dir
	for _, d := range []string{"queue", "run", "etc", "lib", "log"} {
		testenv.Must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	return &besideSite{s, strings.NewReplacer("/var/spool/postfix", dir+"/queue", "/run/postern", dir+"/run", "/etc/postern", dir+"/etc",
		"/var/lib/postern", dir+"/lib", "/var/log/postern", dir+"/log", "127.0.0.1:8880", "127.0.0.1:0")}
}

// serve runs Postern with a configuration of the page.
func (s *besideSite) serve(t *testing.T, yaml string, more ...string) {
	t.Helper()
	// The race detector is slow, and the default time-out is not what is tested here.
	yaml = strings.Replace(s.paths.Replace(yaml), "policy:\n", "policy:\n  timeout: 2s\n", 1)
	testenv.Write(t, filepath.Join(s.Dir, "postern.yaml"), strings.NewReplacer(more...).Replace(yaml))
	os.Remove(filepath.Join(s.Dir, "serve.log")) // of a run before, which was ready too
	s.Start(t)
}

// socketDir makes the directory of Postfix's sockets as the page says.
func (s *besideSite) socketDir(t *testing.T) {
	t.Helper()
	group, err := user.LookupGroup("postfix")
	testenv.Must(t, err)
	gid, err := strconv.Atoi(group.Gid)
	testenv.Must(t, err)
	dir := filepath.Join(s.Dir, "queue/postern")
	testenv.Must(t, os.Mkdir(dir, 0o750))
	testenv.Must(t, os.Chown(dir, -1, gid))
	testenv.Must(t, os.Chmod(dir, os.ModeSetgid|0o750))
}

// ports puts free addresses in the place of the services' names, and gives them by name.
func ports(t *testing.T, master string, names ...string) (string, map[string]string) {
	t.Helper()
	addr := map[string]string{}
	for _, name := range names {
		addr[name] = testenv.FreeAddr(t)
		re := regexp.MustCompile(`(?m)^` + name + ` +inet`)
		if !re.MatchString(master) {
			t.Fatalf("no service %s in\n%s", name, master)
		}
		master = re.ReplaceAllString(master, addr[name]+" inet")
	}
	return master, addr
}

const letterWithoutDate = "From: alice@example.com\r\nTo: bob@example.net\r\nSubject: x\r\n\r\nHello.\r\n"

// TestPostfixPage starts a real Postfix with what docs/how-to/postfix.md says.
func TestPostfixPage(t *testing.T) {
	p := readPage(t, "postfix.md")
	s := startBeside(t, "")
	s.socketDir(t)
	testenv.Write(t, filepath.Join(s.Dir, "etc/senders.yaml"), p["senders.yaml"][0])
	s.serve(t, p["postern.yaml"][0])
	sink := testmilter.StartSink(t)
	master, addr := ports(t, p["master.cf"][0]+p["master.cf"][1], "submission", "submissions", "2587")
	mta := testmilter.StartPostfix(t, testmilter.PostfixOptions{NoMilters: true, Relay: sink.Addr, SASL: testmilter.StartDovecotAuth(t, "secret"),
		Main: p["main.cf"][0] + p["main.cf"][1], Master: master, Queue: filepath.Join(s.Dir, "queue")})

	login := func(addr string) *testmilter.Client {
		x := testmilter.DialSMTP(t, addr)
		x.Want("250", "EHLO laptop.example.com")
		x.StartTLS()
		x.Want("250", "EHLO laptop.example.com")
		x.Login("alice", "secret")
		return x
	}
	x := login(addr["submission"])
	refused := x.Say("MAIL FROM:<ceo@example.com>")
	if text := readText(t, "postfix.md"); !strings.Contains(text, "<** "+refused+"\n") {
		t.Errorf("the page does not show %q", refused)
	}
	mta.WaitLog("milter-reject: MAIL from ")
	x.Want("250", "MAIL FROM:<alice@example.com>")
	x.Want("250", "RCPT TO:<bob@example.net>")
	if got := x.Data([]byte(letterWithoutDate)); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	if m := sink.Next(t); !strings.Contains(string(m.Data), "\r\nDate: ") {
		t.Errorf("arrived without a Date:\n%s", m.Data)
	}
	// Local mail: the default policy refuses it, and says so in Postfix's log.
	mta.Sendmail("From: root@example.com\nSubject: x\n\nx\n", "-f", "root@example.com", "-i", "bob@example.net")
	mta.WaitLog("milter-reject: END-OF-MESSAGE from localhost")
	// The port without a milter in main.cf is not concerned.
	y := testmilter.DialSMTP(t, mta.Addr)
	y.Want("250", "EHLO other.example.net")
	y.Want("250", "MAIL FROM:<stranger@example.net>")

	testenv.Must(t, s.Process.Stop(syscall.SIGTERM))
	x = testmilter.DialSMTP(t, addr["submission"])
	x.Want("250", "EHLO laptop.example.com")
	x.Want("454 4.3.0", "STARTTLS")
	mta.WaitLog("connect to Milter service unix:postern/milter.sock: No such file or directory")

	// The trial's port: judged while Postern is there, open while it is not.
	s.serve(t, p["postern.yaml"][1])
	x = login(addr["2587"])
	x.Want("550 5.7.1", "MAIL FROM:<ceo@example.com>")
	testenv.Must(t, s.Process.Stop(syscall.SIGTERM))
	x = login(addr["2587"])
	x.Want("250", "MAIL FROM:<ceo@example.com>")
}

func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(e2e.Path(t, "docs/how-to/"+name))
	testenv.Must(t, err)
	return string(b)
}

// TestPostfixPageOverTCP: the other way to connect; and macro lists that are empty in main.cf, for Postern brings its own.
func TestPostfixPageOverTCP(t *testing.T) {
	p := readPage(t, "postfix.md")
	s := startBeside(t, "")
	testenv.Write(t, filepath.Join(s.Dir, "etc/senders.yaml"), p["senders.yaml"][0])
	milter := testenv.FreeAddr(t)
	s.serve(t, p["postern.yaml"][2], "127.0.0.1:8891", milter)
	sink := testmilter.StartSink(t)
	master, addr := ports(t, strings.ReplaceAll(p["master.cf"][2], "127.0.0.1:8891", milter), "submission")
	testmilter.StartPostfix(t, testmilter.PostfixOptions{NoMilters: true, Relay: sink.Addr, SASL: testmilter.StartDovecotAuth(t, "secret"),
		Main: p["main.cf"][0] + "milter_connect_macros =\nmilter_helo_macros =\nmilter_mail_macros =\nmilter_end_of_data_macros =\n", Master: master})
	x := testmilter.DialSMTP(t, addr["submission"])
	x.Want("250", "EHLO laptop.example.com")
	x.StartTLS()
	x.Want("250", "EHLO laptop.example.com")
	x.Login("alice", "secret")
	x.Want("550 5.7.1", "MAIL FROM:<ceo@example.com>")
	x.Want("250", "MAIL FROM:<alice@example.com>")
}

// TestPostfixConnect: what the page says of refusals by postern.connect.
func TestPostfixConnect(t *testing.T) {
	for name, c := range map[string]struct{ element, greeting string }{
		"reject":  {`reject contains {"rule": "r", "code": 550, "message": "go away"}`, "554 mta.example.com ESMTP not accepting connections"},
		"defer":   {`defer contains {"rule": "r", "message": "go away"}`, "220 mta.example.com ESMTP Postfix"},
		"hang up": {`defer contains {"rule": "r", "code": 421, "message": "go away"}`, "421 mta.example.com Service unavailable - try again later"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startBeside(t, "")
			testenv.Write(t, filepath.Join(s.Dir, "policy/postern/connect/c.rego"), "package postern.connect\n\n"+c.element+" if input.client.ip\n")
			milter := testenv.FreeAddr(t)
			s.serve(t, "milter: {listen: 'tcp:"+milter+"'}\npolicy:\n  bundle: policy\n")
			mta := testmilter.StartPostfix(t, testmilter.PostfixOptions{Milter: "inet:" + milter, Relay: testmilter.StartSink(t).Addr})
			conn, err := net.Dial("tcp", mta.Addr)
			testenv.Must(t, err)
			defer conn.Close()
			testenv.Must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
			got, err := bufio.NewReader(conn).ReadString('\n')
			testenv.Must(t, err)
			if strings.TrimSpace(got) != c.greeting {
				t.Errorf("greeted with %q, want %q", got, c.greeting)
			}
			if name == "defer" {
				x := testmilter.DialSMTP(t, mta.Addr)
				x.Want("250", "EHLO laptop.example.com")
				x.Want("451", "MAIL FROM:<alice@example.com>")
			}
		})
	}
}

// TestPostfixPageChecked: what the page says passes `postern check --postfix`.
func TestPostfixPageChecked(t *testing.T) {
	p := readPage(t, "postfix.md")
	for name, c := range map[string]struct{ yaml, main, master string }{
		"unix": {p["postern.yaml"][0], p["main.cf"][0] + p["main.cf"][1], p["master.cf"][0]},
		"tcp":  {p["postern.yaml"][2], p["main.cf"][0] + "non_smtpd_milters = inet:127.0.0.1:8891\n", p["master.cf"][2]},
	} {
		t.Run(name, func(t *testing.T) {
			s := startBeside(t, "")
			s.socketDir(t)
			testenv.Write(t, filepath.Join(s.Dir, "etc/senders.yaml"), p["senders.yaml"][0]+"  allow_local: true\n")
			testenv.Write(t, filepath.Join(s.Dir, "postern.yaml"), s.paths.Replace(c.yaml))
			conf := filepath.Join(s.Dir, "conf")
			testenv.Must(t, os.Mkdir(conf, 0o755))
			testenv.Write(t, filepath.Join(conf, "main.cf"), "compatibility_level = 3.6\nqueue_directory = "+s.Dir+"/queue\n"+c.main)
			testenv.Write(t, filepath.Join(conf, "master.cf"), c.master)
			out, errs, code := s.Run(t, "check", "--config", filepath.Join(s.Dir, "postern.yaml"), "--postfix", "--postfix-config", conf)
			if code != 0 || errs != "" {
				t.Errorf("exit %d\n%s%s", code, out, errs)
			}
		})
	}
}

// TestTrialPolicy makes the page's bundle with the page's commands, and asks it about two logins.
func TestTrialPolicy(t *testing.T) {
	p := readPage(t, "postfix.md")
	s := startBeside(t, "")
	script := regexp.MustCompile("(?s)```sh\n(cp -r policies .*?)```").FindStringSubmatch(readText(t, "postfix.md"))
	if script == nil {
		t.Fatal("the page has no commands that make the bundle")
	}
	sh := exec.Command("/bin/sh", "-ec", s.paths.Replace(strings.Replace(script[1], "cp -r policies", "cp -r "+e2e.Path(t, "policies"), 1)))
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bundle := filepath.Join(s.Dir, "etc/policy")
	for _, stage := range []string{"mail", "rcpt", "message"} {
		name := "postern/" + stage + "/trial.rego"
		if len(p[name]) != 1 {
			t.Fatalf("the page has %d files %s", len(p[name]), name)
		}
		text := "# " + name + "\n" + p[name][0]
		formatted, err := format.SourceWithOpts(name, []byte(text), format.Opts{RegoVersion: ast.RegoV1})
		testenv.Must(t, err)
		if string(formatted) != text {
			t.Errorf("%s is not as `opa fmt` writes it:\n%s", name, formatted)
		}
		testenv.Write(t, filepath.Join(bundle, name), text)
	}
	testenv.Write(t, filepath.Join(s.Dir, "etc/senders.yaml"), p["senders.yaml"][0]+"trial: {alice: true}\n")
	testenv.Write(t, filepath.Join(s.Dir, "postern.yaml"), "milter: {listen: 'tcp:127.0.0.1:8891'}\npolicy: {bundle: etc/policy, data: [etc/senders.yaml], timeout: 2s}\n")
	config := filepath.Join(s.Dir, "postern.yaml")
	if out, errs, code := s.Run(t, "check", "--config", config); code != 0 {
		t.Fatalf("check: exit %d\n%s%s", code, out, errs)
	}
	eml := filepath.Join(s.Dir, "x.eml")
	testenv.Write(t, eml, letterWithoutDate)
	eval := func(login, from string) (int, string) {
		out, errs, code := s.Run(t, "eval", "--config", config, "--json", "--login", login, "--from", from, "--to", "carol@example.net", eml)
		return code, out + errs
	}
	if code, out := eval("alice", "ceo@example.com"); code != 1 || !strings.Contains(out, "mail.sender-not-yours") {
		t.Errorf("a login on trial was not refused: exit %d\n%s", code, out)
	}
	if code, out := eval("alice", "alice@example.com"); code != 0 || !strings.Contains(out, "add_header") {
		t.Errorf("a login on trial was not served: exit %d\n%s", code, out)
	}
	code, out := eval("bob", "ceo@example.com")
	if code != 0 || strings.Contains(out, `"op": "add_header"`) && !strings.Contains(out, "would_edit") || !strings.Contains(out, "would_refuse") {
		t.Errorf("a login not on trial: exit %d\n%s", code, out)
	}
}

// TestSendmailPage starts a real Sendmail with each configuration of docs/how-to/sendmail.md.
func TestSendmailPage(t *testing.T) {
	p := readPage(t, "sendmail.md")
	mcs, yamls := p["sendmail.mc"], p["postern.yaml"]
	if len(mcs) != 3 || len(yamls) != 3 {
		t.Fatalf("%d sendmail.mc, %d postern.yaml", len(mcs), len(yamls))
	}
	down := []string{"451 4.3.2", "451 4.3.2", "250"}
	for i, mc := range mcs {
		t.Run([]string{"unix", "inet", "trial"}[i], func(t *testing.T) {
			// Sendmail uses no socket below a directory that everybody may write to, such as /tmp.
			s := startBeside(t, "/var/cache/postern-test")
			testenv.Write(t, filepath.Join(s.Dir, "etc/senders.yaml"), "senders: {alice: [alice@example.com]}\n")
			milter, smtp, submission, trial := testenv.FreeAddr(t), testenv.FreeAddr(t), testenv.FreeAddr(t), testenv.FreeAddr(t)
			s.serve(t, yamls[i], "127.0.0.1:8891", milter)
			at := func(addr string) string { _, port, _ := strings.Cut(addr, ":"); return "Addr=127.0.0.1, Port=" + port }
			_, milterPort, _ := strings.Cut(milter, ":")
			mc := strings.NewReplacer("Port=smtp", at(smtp), "Port=submission", at(submission), "Port=2587", at(trial),
				"M=Ea", "M=E", "8891@", milterPort+"@").Replace(s.paths.Replace(mc))
			judged := []string{submission, smtp, trial}[i]
			testmilter.StartSendmailWith(t, testmilter.StartSink(t).Addr, judged, mc)

			x := testmilter.DialSMTP(t, judged)
			x.Want("250", "EHLO laptop.example.com")
			// Without a login: what the default policy says shows that it is asked. The page's M=a would not let us get here.
			x.Want("530 5.7.0", "MAIL FROM:<alice@example.com>")
			x.Want("221", "QUIT")
			if i != 1 {
				y := testmilter.DialSMTP(t, map[int]string{0: smtp, 2: submission}[i])
				y.Want("250", "EHLO laptop.example.com")
				y.Want("250", "MAIL FROM:<alice@example.com>")
			}
			testenv.Must(t, s.Process.Stop(syscall.SIGTERM))
			x = testmilter.DialSMTP(t, judged)
			x.Want("250", "EHLO laptop.example.com")
			x.Want(down[i], "MAIL FROM:<alice@example.com>")
		})
	}
}
