package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/autoconfig"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/postfix"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/smtpd/auth"
)

func newImportCmd(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Convert tables of other mail servers",
		Long: `Convert tables of other mail servers into data documents for the policy.

Exit codes: 0 done; 1 the table has entries that cannot be converted; 2 wrong usage.`,
		Example: "  postern import postfix-map /etc/postfix/sender_login",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPostfixMapCmd(p))
	return cmd
}

// mapOptions are the flags of postern import postfix-map.
type mapOptions struct {
	output  string
	domains []string
	wider   bool
}

func newPostfixMapCmd(p *program) *cobra.Command {
	o := mapOptions{}
	cmd := &cobra.Command{
		Use:   "postfix-map FILE",
		Short: "Convert a table of smtpd_sender_login_maps into a senders document",
		Long: `Convert the source of a table of smtpd_sender_login_maps (an address or @domain, then logins) into a
senders document for policy.data, which is watched and reloaded. FILE may have a prefix of Postfix:
hash:, texthash:, btree:, lmdb:, cdb: or dbm:. Tables of patterns (regexp:, pcre:) and entries with
more than one reading are refused.

In Postfix the entry of an address hides the entry of its domain, but in a senders document rights
add up. If that would let a user send as more addresses than now, nothing is written unless --wider
is given.

Exit codes: 0 done; 1 the table has entries that cannot be converted; 2 wrong usage, or FILE cannot
be read.`,
		Example: `  postern import postfix-map /etc/postfix/sender_login
  postern import postfix-map hash:/etc/postfix/sender_login --domain example.com --output senders.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return p.importPostfixMap(args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.output, "output", "", "`file` to write, as a whole or not at all, instead of standard output")
	f.StringSliceVar(&o.domains, "domain", nil, "`domain` to add to keys without one; may be repeated")
	f.BoolVar(&o.wider, "wider", false, "let the owners of a domain also send as the addresses of the domain that have entries of their own")
	cmd.MarkFlagFilename("output", "yaml", "yml")
	cmd.RegisterFlagCompletionFunc("domain", cobra.NoFileCompletions)
	return cmd
}

// mapKinds are the table types of Postfix whose source is a text file with a key and its value in each line.
var mapKinds = []string{"hash", "texthash", "btree", "lmdb", "cdb", "dbm"}

func (p *program) importPostfixMap(name string, o mapOptions) error {
	kind, path, prefixed := strings.Cut(name, ":")
	switch {
	case !prefixed:
		path = name
	case kind == "regexp" || kind == "pcre":
		return exitcode.UsageError(fmt.Errorf("%s: is a table of patterns, which cannot be converted; list the addresses, or write @domain", kind))
	case kind == "ldap":
		return exitcode.UsageError(errors.New("ldap: is not a file; let the auth backend read the attribute, and name it in settings.sender_attributes"))
	case !slices.Contains(mapKinds, kind):
		return exitcode.UsageError(fmt.Errorf("%s: is not a table with a source file; write one of %s", kind, strings.Join(mapKinds, ", ")))
	}
	for _, d := range o.domains {
		if !autoconfig.IsHostName(d) {
			return exitcode.UsageError(fmt.Errorf("--domain %q is not a domain; write it like example.com", d))
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return exitcode.UsageError(err)
	}
	senders, wider, err := postfix.ReadSenderMap(path, data, o.domains, auth.Login)
	if err != nil {
		return err
	}
	for _, w := range wider {
		fmt.Fprintln(p.stderr, w.Error())
	}
	if len(wider) > 0 && !o.wider {
		return errors.New("nothing was written, because these users would get new rights; remove the entry of the domain, or add --wider")
	}
	var text []byte
	if p.json {
		if text, err = json.MarshalIndent(map[string]any{"senders": senders}, "", "  "); err != nil {
			return err
		}
		text = append(text, '\n')
	} else {
		text = sendersYAML(path, senders)
	}
	if o.output == "" {
		_, err = p.stdout.Write(text)
		return err
	}
	return safefile.Output(o.output, 0o644, func(f *os.File) error {
		_, err := f.Write(text)
		return err
	})
}

// sendersYAML returns the document, sorted by login.
func sendersYAML(source string, senders postfix.Senders) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by postern import postfix-map of %s. Run that again instead of editing this file.\n", yamlText(source))
	if len(senders) == 0 {
		b.WriteString("senders: {}\n")
		return b.Bytes()
	}
	b.WriteString("senders:\n")
	for _, login := range slices.Sorted(maps.Keys(senders)) {
		fmt.Fprintf(&b, "  %s:\n", yamlText(login))
		for _, a := range senders[login] {
			fmt.Fprintf(&b, "    - %s\n", yamlText(a))
		}
	}
	return b.Bytes()
}

// plainYAML matches text that every YAML reader reads as a string without quotes.
var plainYAML = regexp.MustCompile(`^[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$`)

// yamlText returns s as a YAML string, in the quotes of JSON where it needs quotes.
func yamlText(s string) string {
	if plainYAML.MatchString(s) && s[0] != '-' {
		return s
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
