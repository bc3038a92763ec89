// Command postern is a mail submission filter whose rules are code. It is a submission server and a milter that ask Rego policies about
// every message, then accept, repair, hold or refuse it.
//
// This file is the table of contents: each command has a file of its own, which reads its flags and prints its results. The work is done
// in the packages below: daemon runs the servers, config reads the configuration, gate loads and compiles policies.
//
// When a command fails it prints on standard error what is wrong, where, and how to mend it. It ends with the exit code 1 if it failed
// or if the answer is no, and with 2 if the command line or the configuration is wrong.
package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/terminal"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process. It returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out, errs := terminal.NewOutput(stdout), terminal.NewOutput(stderr)
	defer errs.Flush()
	defer out.Flush()
	p := &program{stdin: stdin, stdout: out, stderr: errs}
	return p.execute(newRootCmd(p, commands(p)), args)
}

// commands returns the commands in the order of the help.
func commands(p *program) []*cobra.Command {
	return []*cobra.Command{
		newServeCmd(p),       // run the servers
		newCheckCmd(p),       // check a configuration and a policy, for CI
		newTestCmd(p),        // run the tests of a policy
		newEvalCmd(p),        // show what policy does with a message, and why
		newExplainCmd(p),     // explain a logged decision
		newReplayCmd(p),      // show what another policy would have decided
		newInitCmd(p),        // make a policy repository
		newPasswdCmd(p),      // make a line for the users file
		newImportCmd(p),      // convert tables of other servers
		newDNSCmd(p),         // print or check DNS records for mail programs
		newNotifyLoginCmd(p), // report a login at a POP or IMAP server
		newVersionCmd(p),     // print the version
	}
}
