// Command postern is a mail submission filter whose rules are code: a submission server and a milter that put every message
// before Rego policies.
//
// This file is the table of contents: each command has a file of its own. Configuration is in package config, the TLS
// certificate in package certs.
//
// What it does when things fail: a command prints what is wrong, where and how to mend it on standard error, and ends with 1
// (refused or failed) or 2 (wrong usage or configuration).
package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	return p.execute(newRootCmd(p), args)
}

// commands are the verbs of the program, in the order of its help.
func commands(p *program) []*cobra.Command {
	return []*cobra.Command{
		newServeCmd(p),       // the servers
		newCheckCmd(p),       // configuration and policy, for CI
		newTestCmd(p),        // a policy's own tests, Rego and messages
		newEvalCmd(p),        // what would happen to a message, and why
		newExplainCmd(p),     // why a logged decision came out as it did
		newReplayCmd(p),      // what another policy would have decided
		newInitCmd(p),        // a policy repository to start from
		newPasswdCmd(p),      // a line for the users file
		newImportCmd(p),      // tables of other servers
		newDNSCmd(p),         // by which mail programs find us
		newNotifyLoginCmd(p), // what POP and IMAP servers know
		newVersionCmd(p),     // what this is made of
	}
}
