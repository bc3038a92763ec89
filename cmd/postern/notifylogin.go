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
		Short: "Tell a running server who has logged in at a POP or IMAP server",
		Long: `Tell a running server that LOGIN has authenticated from ADDRESS at a POP or IMAP server. SOCKET is
the one that submission.recent_logins.socket names. Without ADDRESS and LOGIN, they are read from
the environment variables IP and USER, which Dovecot sets for a post-login script.

Exit codes: 0 done; 1 no server reads the socket; 2 wrong usage.`,
		Example: `  postern notify-login /run/postern/recent.sock              in a post-login script of Dovecot
  postern notify-login /run/postern/recent.sock 192.0.2.7 alice`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 3 {
				return errors.New("name the socket, and then both ADDRESS and LOGIN, or neither")
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

// notifyLogin sends one login to the socket.
func notifyLogin(socket, addr, login string) error {
	if _, err := netip.ParseAddr(addr); err != nil {
		return exitcode.UsageError(fmt.Errorf("%q is not an IP address", addr))
	}
	if _, ok := auth.Login(login); !ok {
		return exitcode.UsageError(fmt.Errorf("%q cannot be a login", login))
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	// The login of the user waits for this program, so it must not wait long for the server.
	c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	_, err = c.Write([]byte(addr + " " + login + "\n"))
	return err
}
