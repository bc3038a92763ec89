package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/smtpd/auth"
)

func newNotifyLoginCmd(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "notify-login SOCKET [ADDRESS LOGIN]",
		Short: "Tell a running postern who has logged in at a POP or IMAP server",
		Long: `Tell a running postern that LOGIN was proved from ADDRESS at a POP or IMAP server, by the socket that
submission.recent_logins.socket names. Without the two, they are taken from IP and USER in the environment,
where Dovecot puts them for a post-login script.

Exit codes: 0 told; 1 nobody listens there; 2 wrong usage.`,
		Example: `  postern notify-login /run/postern/recent.sock              in a post-login script of Dovecot
  postern notify-login /run/postern/recent.sock 192.0.2.7 alice`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 3 {
				return errors.New("give the socket, and either both ADDRESS and LOGIN or neither")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			addr, login := os.Getenv("IP"), os.Getenv("USER")
			if len(args) == 3 {
				addr, login = args[1], args[2]
			}
			return notifyLogin(args[0], addr, login)
		},
	}
}

func notifyLogin(socket, addr, login string) error {
	if _, err := netip.ParseAddr(addr); err != nil {
		return exitcode.UsageError(fmt.Errorf("%q is no address", addr))
	}
	if _, ok := auth.Login(login); !ok {
		return exitcode.UsageError(fmt.Errorf("%q cannot be a login", login))
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	// A login must not wait for a server that does not read.
	c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	_, err = c.Write([]byte(addr + " " + login + "\n"))
	return err
}
