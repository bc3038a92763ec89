// Package config reads postern.yaml.
//
// Load reads the file and finds everything that is wrong with its text; unknown keys are errors. Config.Validate checks what the text refers to
// (files and directories), and keys that contradict each other. Check does both. Every finding says what is wrong, where, and how to mend it.
// The package changes nothing on disk, opens no socket and starts no goroutines.
package config

import (
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/relay"
)

// Config is the whole configuration. Its paths can be opened as they are, because relative ones were joined to the directory of the file. Default
// and Load return one; the zero value cannot be used.
type Config struct {
	File string // the file that it was read from, or ""

	// Hostname is the name in greetings, in Received and towards next hops. Default: the name of the system.
	Hostname string
	// StateDir holds the files that have no path of their own in the configuration: outbox, quarantine, tls, users.yaml, decisions.jsonl, the
	// key of its hashes, and the last good bundle. Default: the directory of the file.
	StateDir string

	Submission  Submission
	Auth        []Auth
	Relay       Relay
	Milter      Milter
	Policy      Policy
	DecisionLog DecisionLog
	Admin       Admin
	Log         Log

	doc *yamldoc.Doc
	at  map[string]yamldoc.Pos // the place of each key in the file
}

// Submission is the submission server (RFC 6409).
type Submission struct {
	Listen    []string // addresses with STARTTLS, "host:port", ":port" or "systemd:name"
	ListenTLS []string // addresses with implicit TLS (RFC 8314)
	// Mechanisms are the mechanisms of authentication that may be used, by address as in Listen and ListenTLS. The key "" is for all other
	// listeners. Without an entry, all mechanisms of the backends may be used.
	Mechanisms map[string][]string
	TLS        TLS
	// ProxyProtocol are the networks of proxies that name their client in the PROXY protocol.
	ProxyProtocol []netip.Prefix
	Limits        smtpd.Limits // none of its fields is zero
	// Received says what the trace field contains about the client: "full", "private" (nothing that identifies it), or a template of package
	// smtpd.
	Received string
	// Extensions overrides, by keyword of EHLO, whether it is offered. Default: as the next hops allow.
	Extensions map[string]bool
	// LenientCommands takes commands that are not written as RFC 5321 says, where they have one meaning. Default: true.
	LenientCommands bool
	// RequireAuth refuses MAIL before AUTH with 530 5.7.0. Default: true.
	RequireAuth bool
	// AuthLimits are for failed logins over all connections.
	AuthLimits AuthLimits
	// RecentLogins are reported by a POP or IMAP server.
	RecentLogins RecentLogins
}

// Enabled reports whether there is a listener.
func (s Submission) Enabled() bool { return len(s.Listen)+len(s.ListenTLS) > 0 }

// TLS names the files of a certificate. If Cert and Key are empty, a self-signed one is made in StateDir/tls.
type TLS struct {
	Cert, Key string // PEM; both or neither
	ClientCA  string // PEM; authorities of client certificates, which are asked for but not required; "" to ask for none
	// SessionTickets may be switched off for clients that fail with them. Default: true.
	SessionTickets bool
}

// Auth is one authentication backend. Backends are asked in order. Exactly one of the fields but Scram is set.
type Auth struct {
	File        string       // users file
	Scram       string       // for File: "auto" (on if all users have a verifier), "on", "off"
	OAuth       *OAuth       // bearer tokens
	Certificate *Certificate // TLS client certificates
	Dovecot     *Dovecot
	LDAP        *LDAP
	RADIUS      *RADIUS
}

// OAuth is a provider of bearer tokens. They are JWTs (Keys), or only the provider can check them (Introspection).
type OAuth struct {
	Issuer           string
	Keys             string // path or URL of a JSON Web Key Set
	Audience         []string
	Algorithms       []string
	Introspection    string // URL
	ClientID         string
	ClientSecretFile string // its first line is the secret
	Scope            string
	Login            string // claim
	Groups           string // claim
	Attributes       []string
	Discovery        string // URL in the reply to a client whose token was refused
	CA               string // PEM file of authorities of the provider's certificate; "" for those of the system
	Timeout          time.Duration
}

// Certificate says which login a TLS client certificate has. Its authorities are those of Submission.TLS.ClientCA.
type Certificate struct {
	Map string   // path
	SAN []string // kinds of alternative names that are logins: "email", "dns", "uri"
	CRL string   // path
}

// Relay says where accepted messages go.
type Relay struct {
	To         []Target // in order of preference; the next one is tried if one does not answer
	Quarantine string   // directory of a Maildir
	// Connections bounds how many connections to each next hop are in use at once. Default: half of Submission.Limits.Connections.
	Connections int
	Timeouts    relay.Timeouts // of each step; 0 for the default of package relay
}

// Target is one next hop.
type Target struct {
	// URL is smtp://host:port, smtps://host:port, lmtp://host:port, lmtp+unix:///path or maildir:/path.
	URL          string
	StartTLS     string // "auto" (if offered), "off", "required" (it must be offered, and the certificate must verify)
	CA           string // PEM file of authorities; "" for those of the system
	ServerName   string // name in the certificate; "" for the host of URL
	Username     string // for AUTH; "" for no login
	PasswordFile string // its first line is the password
}

// Milter is the milter front end.
type Milter struct {
	Listen []MilterListener
	Limits milter.Limits // none of its fields is zero
}

// MilterListener is one socket of the milter.
type MilterListener struct {
	Name    string      // in facts and logs; default: the address as written
	Network string      // "unix", "tcp" or "systemd"
	Address string      // path, host:port, or the name that the socket unit gives its socket
	Mode    os.FileMode // of a unix socket; 0660
	Group   string      // of a unix socket, a name or a number; "" for that of the process
	OnError string      // verdict if policy cannot decide: "defer", "reject", "accept"; default: that of Policy
}

// Spec returns the listener as it is written: "unix:/path", "tcp:host:port" or "systemd:name".
func (l MilterListener) Spec() string { return l.Network + ":" + l.Address }

// Policy is the bundle, how it is fetched, and how it decides.
type Policy struct {
	Bundle  string        // directory, .tar.gz, https://, http:// or oci://; "" for the default bundle
	Data    []string      // more data documents, merged over the data of the bundle
	OnError string        // verdict if policy cannot decide: "defer", "reject", "accept"
	Timeout time.Duration // of one evaluation, from when it begins; 1 s
	MaxWait time.Duration // of a decision for its turn, before it begins; 10 s
	// AllowBuiltins names builtins that are refused by default: those that use the network, the environment or random numbers.
	AllowBuiltins []string
	Shadow        *Candidate    // decides as well, without effect; nil for none
	Canary        *Canary       // decides for a share of identities; nil for none
	Poll          time.Duration // how often to ask for a bundle on another machine; 30 s
	Tests         string        // "required" (the bundle's own tests must pass) or "off"
	TestTimeout   time.Duration // for all of the tests; 30 s
	Verify        Verify
	// The rest says how a bundle is fetched.
	TokenFile             string // its first line is a bearer token, or the password of Username
	Username              string
	CA                    string // PEM file of authorities; "" for those of the system
	ClientCert, ClientKey string // PEM files; both or neither
	Insecure              bool   // allow unencrypted connections over networks
}

// Verify says which signatures bundles must have. Without keys they need none.
type Verify struct {
	Keys    map[string]VerifyKey // by their id
	Scope   string               // scope in the signatures
	Exclude []string             // patterns of files that need no signature
}

// VerifyKey is a key that verifies signatures.
type VerifyKey struct {
	File      string // PEM of a public key or certificate, or a secret
	Algorithm string // RS256, ES256, HS256 and so on
}

// DecisionLog says where and how decisions are logged, as one line of JSON each.
type DecisionLog struct {
	File   string // "" for no file
	Strict bool   // defer mail whose decision cannot be logged; otherwise count the lost lines
	Input  string // "read" (the facts that the policy reads) or "full" (all facts except for the body, to replay other policies)
	Sync   string // to disk: "none", "interval", "each"
	Rotate DecisionRotate
	Mask   DecisionMask
	Upload DecisionUpload
	Labels map[string]string // in every line
	// MaxLine bounds a line, in bytes. What does not fit is left out and counted in the line.
	MaxLine int64
}

// DecisionRotate says when the file is full, and how many full files are kept. With the zero value the file only grows.
type DecisionRotate struct {
	Size     int64         // bytes; 0: any
	Age      time.Duration // of the first line; 0: any
	Keep     int
	Compress bool
}

// DecisionMask says what is left out of the lines. Bodies are never in them.
type DecisionMask struct {
	Addresses                 string // "plain", "hash", "domain"
	Subject                   string // "keep", "erase"
	ClientIP                  string // "keep", "hash", "network"
	KeepHeaders, EraseHeaders []string
	KeyFile                   string // key of hashes; default: one that is made in StateDir
}

// Hashes reports whether a key is needed.
func (m DecisionMask) Hashes() bool { return m.Addresses != "plain" || m.ClientIP == "hash" }

// DecisionUpload is a service to which the lines are sent.
type DecisionUpload struct {
	URL       string // "" for no service
	TokenFile string // its first line is the bearer token; "" for no token
	CA        string // PEM file of authorities; "" for those of the system
	Buffer    int64  // bytes that may wait
	Batch     int64  // bytes of a request, before compression
	Interval  time.Duration
	Timeout   time.Duration
}

// Admin serves /metrics and /healthz.
type Admin struct {
	Listen string // "" to serve nothing
	// Public allows Listen to be an address that other machines can reach. The admin server asks nobody for a password.
	Public bool
	// Autoconfig is served as well, for a web server that passes requests on.
	Autoconfig Autoconfig
}

// Log is the program's own log, on standard error.
type Log struct {
	Level  slog.Level
	Format string // "auto" (text on a terminal, JSON otherwise), "text", "json"
}

// Default returns the configuration that holds without a file: loopback ports 2587 and 2465, a self-signed certificate, the default bundle, and
// all files in dir.
func Default(dir string) *Config {
	c := defaults(dir)
	c.fill()
	return c
}

// defaultRotate bounds the decision log to fifteen files of 100 MiB, of a day each.
func defaultRotate() DecisionRotate {
	return DecisionRotate{Size: 100 << 20, Age: 24 * time.Hour, Keep: 14, Compress: true}
}

// defaults returns the defaults that do not depend on other values.
func defaults(dir string) *Config {
	hostname, err := os.Hostname()
	if err != nil || hostname == "" {
		hostname = "localhost"
	}
	return &Config{
		Hostname: hostname,
		StateDir: dir,
		Submission: Submission{
			TLS:      TLS{SessionTickets: true},
			Limits:   smtpd.Limits{}.OrDefault(),
			Received: "full", RequireAuth: true, LenientCommands: true, RecentLogins: RecentLogins{Mode: 0o660},
		},
		Milter: Milter{Limits: milter.Limits{}.OrDefault()},
		Policy: Policy{OnError: "defer", Timeout: time.Second, MaxWait: 10 * time.Second, Poll: 30 * time.Second, Tests: "required", TestTimeout: 30 * time.Second},
		DecisionLog: DecisionLog{
			Input: "read", Sync: "none", Rotate: defaultRotate(), MaxLine: decisionlog.DefaultLine, Mask: DecisionMask{Addresses: "plain", Subject: "keep", ClientIP: "keep"},
			Upload: DecisionUpload{Buffer: 16 << 20, Batch: 256 << 10, Interval: 5 * time.Second, Timeout: 30 * time.Second},
		},
		Log: Log{Level: slog.LevelInfo, Format: "auto"},
	}
}
