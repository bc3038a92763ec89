package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/cmd/postern/usersfile"
	"github.com/postern-mail/postern/smtpd/auth"
)

const passwdLong = `Hash a password with argon2id and print the line to append to a users file.

With --scram, make a SCRAM-SHA-256 verifier instead. Clients can then log in without sending the
password, but a thief of the file can guess passwords faster than with argon2id. PLAIN and LOGIN
work with both. A users file offers SCRAM-SHA-256 when all of its users have a verifier
(auth[].scram).

On a terminal, postern asks for the password twice, without echo. Otherwise it reads the first line
of standard input. It never takes the password from the command line, where other users of the
machine could see it.

With --file, change the users file: add the user, or set the new password and keep groups and
attributes. The new file is checked and then replaces the old one as a whole. A running server reads
it.

Exit codes: 0 done; 1 the file could not be changed; 2 wrong usage, or no password.`

const passwdExample = `  postern passwd alice
  postern passwd alice --file users.yaml
  postern passwd alice --scram --file users.yaml
  pwgen 20 1 | tee /dev/tty | postern passwd alice --file users.yaml`

func newPasswdCmd(p *program) *cobra.Command {
	var file string
	var scram bool
	cmd := &cobra.Command{
		Use:     "passwd NAME",
		Short:   "Print a user's line for the users file, or change the file",
		Long:    passwdLong,
		Example: passwdExample,
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return passwd(p, args[0], file, scram) },
	}
	cmd.Flags().StringVar(&file, "file", "", "users `file` to change; it is created if it does not exist")
	cmd.Flags().BoolVar(&scram, "scram", false, "make a SCRAM-SHA-256 verifier instead of an argon2id hash")
	cmd.MarkFlagFilename("file", "yaml", "yml")
	return cmd
}

func passwd(p *program, name, file string, scram bool) error {
	login, ok := auth.Login(name)
	if !ok {
		return exitcode.UsageError(fmt.Errorf("%q cannot be a login; write 1 to %d bytes without spaces or control characters", name, auth.MaxLogin))
	}
	password, err := readPassword(p, login)
	if err != nil {
		return err
	}
	make := auth.HashPassword
	if scram {
		make = auth.HashScram
	}
	hash, err := make(rand.Reader, password)
	if err != nil {
		return exitcode.UsageError(err)
	}
	if file != "" {
		added, err := usersfile.SetPassword(file, login, hash)
		if err != nil {
			return err
		}
		what := "has a new password"
		if added {
			what = "is added"
		}
		if p.json {
			return json.NewEncoder(p.stdout).Encode(map[string]any{"login": login, "file": file, "added": added})
		}
		fmt.Fprintf(p.stderr, "%s: %s %s\n", file, login, what)
		return nil
	}
	if p.json {
		return json.NewEncoder(p.stdout).Encode(map[string]string{"login": login, "hash": hash})
	}
	_, err = fmt.Fprint(p.stdout, usersfile.Line(login, hash))
	return err
}

// readPassword asks twice on a terminal, and otherwise reads the first line of standard input.
func readPassword(p *program, login string) (string, error) {
	if !terminal.Is(p.stdin) {
		return readLine(p.stdin)
	}
	first, err := ask(p, "Password for "+login+": ")
	if err != nil {
		return "", err
	}
	second, err := ask(p, "Once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ, so nothing was changed; try again")
	}
	return first, nil
}

func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, auth.MaxPassword+3)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	password := string(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")))
	if password == "" {
		return "", exitcode.UsageError(errors.New("there is no password on standard input; write it as the first line"))
	}
	return password, nil
}

// ask reads a line without echo. A goroutine turns the echo on again when Ctrl-C ends the program. It ends with the question.
func ask(p *program, prompt string) (string, error) {
	fd := int(p.stdin.(*os.File).Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	defer close(done)
	go func() {
		select {
		case <-signals:
			term.Restore(fd, state)
			fmt.Fprintln(p.stderr)
			os.Exit(130)
		case <-done:
		}
	}()
	fmt.Fprint(p.stderr, prompt)
	password, err := term.ReadPassword(fd)
	fmt.Fprintln(p.stderr)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	if strings.TrimSpace(string(password)) == "" {
		return "", exitcode.UsageError(errors.New("the password is empty, so nothing was changed"))
	}
	return string(password), nil
}
