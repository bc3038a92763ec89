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
		Short: "Take over tables of other servers",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
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
		Short: "Turn a table of smtpd_sender_login_maps into a senders document",
		Long: `Turn the source of a table of smtpd_sender_login_maps (address or @domain, then logins) into a senders document
for policy.data, which is watched and reloaded. FILE may have Postfix's prefix: hash:, texthash:, btree:, lmdb:,
cdb:, dbm:. Tables of patterns (regexp:, pcre:) cannot be turned round and are refused, as is all that is not sure.

In Postfix the entry of an address hides that of its domain; here rights add up. Where that would let somebody
send as more than he may now, nothing is written, unless --wider says that it is meant.

Exit codes: 0 done; 1 the table has entries that cannot be taken over; 2 wrong usage, or no such file.`,
		Example: `  postern import postfix-map /etc/postfix/sender_login
  postern import postfix-map hash:/etc/postfix/sender_login --domain example.com --output senders.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return p.importPostfixMap(args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.output, "output", "", "`file` to write instead of standard output, as a whole or not at all")
	f.StringSliceVar(&o.domains, "domain", nil, "`domain` of keys without one; may be repeated")
	f.BoolVar(&o.wider, "wider", false, "let the owners of a domain have its addresses with entries of their own, too")
	cmd.MarkFlagFilename("output", "yaml", "yml")
	cmd.RegisterFlagCompletionFunc("domain", cobra.NoFileCompletions)
	return cmd
}

// mapKinds are Postfix's table types that have a source of the form that is read here.
var mapKinds = []string{"hash", "texthash", "btree", "lmdb", "cdb", "dbm"}

func (p *program) importPostfixMap(name string, o mapOptions) error {
	kind, path, prefixed := strings.Cut(name, ":")
	switch {
	case !prefixed:
		path = name
	case kind == "regexp" || kind == "pcre":
		return exitcode.UsageError(fmt.Errorf("%s: is a table of patterns, which cannot be turned round: list the addresses, or write @domain", kind))
	case kind == "ldap":
		return exitcode.UsageError(errors.New("ldap: is no file: let the auth backend read the attribute, and name it in settings.sender_attributes"))
	case !slices.Contains(mapKinds, kind):
		return exitcode.UsageError(fmt.Errorf("%s: is no table with a source file: give one of %s", kind, strings.Join(mapKinds, ", ")))
	}
	for _, d := range o.domains {
		if !autoconfig.IsHostName(d) {
			return exitcode.UsageError(fmt.Errorf("--domain %q is no domain: write it as in example.com", d))
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
		return errors.New("nothing was written: these would be new rights; take out the domain's entry, or say --wider")
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

// sendersYAML is the document, a login a block, in the order of logins.
func sendersYAML(source string, senders postfix.Senders) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by postern import postfix-map of %s. Make it again instead of changing it.\n", yamlText(source))
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

// plainYAML is what no reader of YAML takes for anything but a text.
var plainYAML = regexp.MustCompile(`^[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$`)

// yamlText is s, quoted (JSON's quoting is YAML's) unless it is plainly a text.
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
