package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// disturber changes reloaded files, validly and invalidly, and checks that the change takes effect or is refused.
type disturber struct {
	site   *site
	pace   time.Duration // time between two changes
	n      int           // number of the change
	done   counts
	failed counts
}

const reloads = "postern_policy_reloads_total"

// run makes changes in turn until ctx ends. Slow changes come once in a round.
func (d *disturber) run(ctx context.Context) {
	type change struct {
		what string
		do   func(ctx context.Context) error
	}
	round := []change{{"good data", d.goodData}, {"SIGHUP", d.hup}, {"broken data", d.brokenData}, {"good data", d.goodData}, {"certificate", d.certificate},
		{"good data", d.goodData}, {"users", d.users}, {"SIGHUP", d.hup}, {"broken users", d.brokenUsers}, {"broken code", d.brokenCode}, {"good code", d.goodCode},
		{"broken certificate", d.brokenCertificate}}
	for i := 0; wait(ctx, d.pace); i++ {
		c := round[i%len(round)]
		d.n++
		switch err := c.do(ctx); {
		case ctx.Err() != nil:
		case err != nil:
			d.failed.add(c.what+": "+err.Error(), 1)
		default:
			d.done.add(c.what, 1)
		}
	}
}

// policy writes a file and waits until the policy is reloaded or refused.
func (d *disturber) policy(ctx context.Context, file, content string, good bool) error {
	before, err := d.site.metrics()
	if err != nil {
		return err
	}
	if err := d.site.put(file, content); err != nil {
		return err
	}
	result, want := "failure", 0.0
	if good {
		result, want = "success", 1
	}
	label := `result="` + result + `"`
	return until(ctx, func() error {
		now, err := d.site.metrics()
		switch {
		case err != nil:
			return err
		case now.sum(reloads, label) <= before.sum(reloads, label) || now["postern_policy_last_reload_successful"] != want:
			return fmt.Errorf("the metrics report no %s of the reload", result)
		case !good && now.revision() != before.revision():
			return fmt.Errorf("the broken policy changed the revision")
		}
		return nil
	})
}

func (d *disturber) goodData(ctx context.Context) error {
	return d.policy(ctx, dataFile, senders(d.n), true)
}

func (d *disturber) brokenData(ctx context.Context) error {
	return d.policy(ctx, dataFile, strings.Replace(senders(d.n), "  user7: [", "  user7: {", 1), false)
}

func (d *disturber) brokenCode(ctx context.Context) error {
	return d.policy(ctx, codeFile, fmt.Sprintf("package postern.lib.soak\n\ncode := nonsense(%d)\n", d.n), false)
}

func (d *disturber) goodCode(ctx context.Context) error {
	return d.policy(ctx, codeFile, code(d.n), true)
}

func (d *disturber) hup(context.Context) error { return d.site.process.Signal(syscall.SIGHUP) }

// certificate replaces the certificate and waits until the new one is served.
func (d *disturber) certificate(ctx context.Context) error {
	serial := int64(d.n + 1000)
	if err := testload.Certificate(d.site.dir, "soak.example.com", serial); err != nil {
		return err
	}
	return until(ctx, func() error { return d.served(func(got int64) bool { return got == serial }) })
}

// brokenCertificate writes an invalid key, checks that TLS still works, and repairs it.
func (d *disturber) brokenCertificate(ctx context.Context) error {
	if err := d.site.put("key.pem", "no key\n"); err != nil {
		return err
	}
	wait(ctx, time.Second)
	err := d.served(func(int64) bool { return true })
	return cmp.Or(err, testload.Certificate(d.site.dir, "soak.example.com", int64(d.n+1000)))
}

func (d *disturber) served(right func(serial int64) bool) error {
	dialer := net.Dialer{Timeout: 30 * time.Second}
	c, err := tls.DialWithDialer(&dialer, "tcp", d.site.tls, anyCertificate)
	if err != nil {
		return err
	}
	defer c.Close()
	if serial := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); !right(serial) {
		return fmt.Errorf("the old certificate is still served")
	}
	return nil
}

// users adds a user and waits until a login as that user works.
func (d *disturber) users(ctx context.Context) error {
	if err := d.site.put(usersFile, d.site.users(d.n)); err != nil {
		return err
	}
	return until(ctx, func() error { return d.login(fmt.Sprintf("guest%d", d.n)) })
}

// brokenUsers writes an invalid users file, checks that logins still work, and repairs it.
func (d *disturber) brokenUsers(ctx context.Context) error {
	if err := d.site.put(usersFile, "users:\n  user0: secret\n"); err != nil {
		return err
	}
	wait(ctx, time.Second)
	err := until(ctx, func() error { return d.login("user1") })
	return cmp.Or(err, d.site.put(usersFile, d.site.users(d.n)))
}

// login logs in from an address that is exempt from the limits on failed logins.
func (d *disturber) login(name string) error {
	c, err := d.site.connect(net.IPv4(127, 99, 0, 1), name)
	if err != nil {
		return fmt.Errorf("login: %s", plain(err.Error()))
	}
	c.quit()
	return nil
}

// until retries for five minutes, because a busy machine takes long to run the tests of a policy.
func until(ctx context.Context, try func() error) error {
	for end := time.Now().Add(5 * time.Minute); ; {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
		if !wait(ctx, 500*time.Millisecond) {
			return ctx.Err()
		}
	}
}
