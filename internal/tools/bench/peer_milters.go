package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/testload"
)

// installed reports whether a milter is installed, and records it as skipped otherwise.
func installed(o options, what, program, owner string) bool {
	if _, err := user.Lookup(owner); err != nil || !exists(tool(program)) {
		o.skip(what, "not installed")
		return false
	}
	return true
}

// startRspamd starts Rspamd with one proxy worker that scans by itself. All its modules, filters and statistics are off. One
// Lua rule checks that the sender belongs to the login and adds a header field.
func (m *milters) startRspamd(o options, dir string) ([]variant, error) {
	if !installed(o, "rspamd", "rspamd", "_rspamd") {
		return nil, nil
	}
	own := filepath.Join(dir, "rspamd")
	if err := owned("_rspamd", own); err != nil {
		return nil, err
	}
	addr := testload.FreeAddr()
	var table strings.Builder
	senders(func(address, user string) { fmt.Fprintf(&table, "[%q]=%q,\n", address, user) })
	if err := put(own, map[string]string{
		"rspamd.conf": fmt.Sprintf(rspamdConf, own, addr),
		"tld":         "com\nnet\norg\n", // Rspamd takes half a minute to compile the whole list
		"bench.lua":   "local owners = {\n" + table.String() + "}\n" + rspamdRule,
	}); err != nil {
		return nil, err
	}
	p, err := testload.Start("rspamd", addr, own, tool("rspamd"), "-f", "-u", "_rspamd", "-g", "_rspamd", "-c", filepath.Join(own, "rspamd.conf"))
	if err != nil {
		b, _ := os.ReadFile(filepath.Join(own, "log"))
		return nil, fmt.Errorf("%w\n%s", err, testload.Tail(string(b)))
	}
	m.others = append(m.others, p)
	const does = "self-scan in one proxy worker; all modules, filters and statistics off; one Lua rule looks up the sender and adds a field"
	return []variant{{"rspamd, unix", does, "unix:" + filepath.Join(own, "rspamd.sock"), p, true}, {"rspamd, tcp", does, "inet:" + addr, p, true}}, nil
}

const rspamdConf = `options {
  pidfile = "%[1]s/pid";
  tempdir = "%[1]s";
  cache_file = "%[1]s/symbols.cache";
  hs_cache_dir = "%[1]s/";
  filters = "";
  url_tld = "%[1]s/tld";
  explicit_modules = [];
  dns { nameserver = ["127.0.0.1:9"]; }
  local_addrs = [];
  task_timeout = 8s;
}
logging { type = "file"; filename = "%[1]s/log"; level = "warning"; }
actions { reject = 15; add_header = 6; }
worker "rspamd_proxy" {
  bind_socket = "%[2]s";
  bind_socket = "%[1]s/rspamd.sock mode=0666";
  count = 1;
  milter = yes;
  timeout = 120s;
  upstream "local" { default = yes; self_scan = yes; }
}
lua = "%[1]s/bench.lua";
`

const rspamdRule = `
rspamd_config:register_symbol({
  name = 'BENCH_SENDER', type = 'normal', score = 0.0,
  callback = function(task)
    local user, from = task:get_user(), task:get_from('smtp')
    if not user or not from or not from[1] or owners[string.lower(from[1].addr)] ~= user then
      task:set_pre_result('reject', 'not your address')
      return
    end
    task:set_milter_reply({ add_headers = { ['X-Bench'] = user } })
  end,
})
`

// startMIMEDefang starts the milter and the multiplexor of its Perl workers.
func (m *milters) startMIMEDefang(o options, dir string) ([]variant, error) {
	if !installed(o, "mimedefang", "mimedefang", "defang") {
		return nil, nil
	}
	own := filepath.Join(dir, "mimedefang")
	spool, socket, mux := filepath.Join(own, "spool"), filepath.Join(own, "milter.sock"), filepath.Join(own, "mux.sock")
	if err := owned("defang", own, spool); err != nil {
		return nil, err
	}
	var table strings.Builder
	senders(func(address, user string) { fmt.Fprintf(&table, "%s %s\n", address, user) })
	if err := put(own, map[string]string{"senders": table.String(), "filter": fmt.Sprintf(defangFilter, filepath.Join(own, "senders"))}); err != nil {
		return nil, err
	}
	// The multiplexor starts a program; mimedefang.pl reads the filter from a file.
	worker := filepath.Join(own, "worker")
	script := fmt.Sprintf("#!/bin/sh\nexec %s -f %s \"$@\"\n", tool("mimedefang.pl"), filepath.Join(own, "filter"))
	if err := os.WriteFile(worker, []byte(script), 0o755); err != nil {
		return nil, err
	}
	// Two workers are always kept, and more are started under load.
	workers, err := testload.Start("mimedefang-multiplexor", "unix:"+mux, own, tool("mimedefang-multiplexor"), "-D", "-U", "defang", "-m", "2", "-x", "20", "-r", "100000",
		"-q", "128", "-Q", "60", "-c", "60", "-W", "0", "-w", "0", "-z", spool, "-s", mux, "-f", worker)
	if err != nil {
		return nil, err
	}
	p, err := testload.Start("mimedefang", "unix:"+socket, own, tool("mimedefang"), "-D", "-U", "defang", "-G", "-q", "-X", "-a", "auth_authen", "-z", spool, "-m", mux,
		"-p", socket)
	if err != nil {
		_ = workers.Stop()
		return nil, err
	}
	p.Also = []*testload.Process{workers}
	m.others = append(m.others, p)
	// The user that Postfix runs as must be able to connect.
	if err := os.Chmod(socket, 0o666); err != nil {
		return nil, err
	}
	return []variant{{"mimedefang, unix", "2 to 20 Perl workers, no scanner; the filter looks up the sender and adds a field", "unix:" + socket, p, true}}, nil
}

const defangFilter = `my %%owners;
sub filter_initialize {
    open(my $f, '<', '%s') or die "senders: $!";
    %%owners = map { chomp; split / / } <$f>;
}
sub filter_end {
    my ($entity) = @_;
    my $user = $SendmailMacros{'auth_authen'} // '';
    my $from = lc($Sender // '');
    $from =~ s/^<|>$//g;
    return action_bounce('not your address') unless $user ne '' && ($owners{$from} // '') eq $user;
    action_add_header('X-Bench', $user);
}
1;
`
