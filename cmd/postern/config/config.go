// Package config reads postern.yaml.
//
// Load reads the file strictly and reports everything that is wrong with its text; Config.Validate looks at what the text
// refers to (files, directories, keys that contradict each other). Check does both. Every finding says where, what and how to
// mend it. Nothing here changes anything on disk or opens a socket. No goroutines.
package config

import (
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/relay"
)

// Config is the whole configuration. Every path in it is ready to open: relative ones have been joined to the directory of
// the file they were read from. Default makes one; the zero value is of no use.
type Config struct {
	File string // the file it was read from; "" where there is none

	// Hostname is the name that we greet with, put into Received and use towards next hops. Default: the system's.
	Hostname string
	// StateDir holds what is written without being told where: outbox, quarantine, tls, users.yaml, decisions.jsonl, the key of
	// its hashes, and the last good bundle. Default: the directory of the file.
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
	at  map[string]yamldoc.Pos // where each key that was written stands
}

// Submission is the submission server (RFC 6409).
type Submission struct {
	Listen    []string // addresses with STARTTLS, "host:port", ":port" or "systemd:name"
	ListenTLS []string // addresses with implicit TLS (RFC 8314)
	// Mechanisms that may be used, by address as it stands in Listen and ListenTLS; "": where nothing else is said. None: all that
	// the backends can serve.
	Mechanisms map[string][]string
	TLS        TLS
	// ProxyProtocol: peers that may say on whose behalf they connect; none: nobody may.
	ProxyProtocol []netip.Prefix
	Limits        smtpd.Limits // none of its fields is zero
	// Received says what our trace field tells of the client: "full", "private" (nothing that identifies it), or a template
	// of the submission server's.
	Received string
	// RequireAuth refuses MAIL before AUTH with 530 5.7.0. Default: true.
	RequireAuth bool
	// AuthLimits are about failed logins over all connections.
	AuthLimits AuthLimits
	// RecentLogins come from a POP or IMAP server.
	RecentLogins RecentLogins
}

// Enabled says that there is a listener.
func (s Submission) Enabled() bool { return len(s.Listen)+len(s.ListenTLS) > 0 }

// TLS names the files of a certificate; with Cert and Key empty, one is made in StateDir/tls and signed by itself.
type TLS struct {
	Cert, Key string // PEM; both or neither
	ClientCA  string // PEM; authorities of client certificates, which are asked for but not required; "": not asked for
	// SessionTickets may be switched off for clients that stumble over them. Default: true.
	SessionTickets bool
}

// Auth is one authentication backend; they are asked in order. One field is set.
type Auth struct {
	File        string       // users file
	Scram       string       // of File: "auto" (where all users have a verifier), "on", "off"
	OAuth       *OAuth       // bearer tokens
	Certificate *Certificate // TLS client certificates
	Dovecot     *Dovecot
	LDAP        *LDAP
	RADIUS      *RADIUS
}

// OAuth is a provider of bearer tokens, which are JWTs (Keys) or known to it alone (Introspection).
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
	Discovery        string // URL that clients are told whose token was refused
	CA               string // PEM file of authorities of the provider's certificate; "": the system's
	Timeout          time.Duration
}

// Certificate says whose a TLS client certificate is. Its authorities are Submission.TLS.ClientCA's.
type Certificate struct {
	Map string   // path
	SAN []string // kinds of alternative names that are logins as they are: "email", "dns", "uri"
	CRL string   // path
}

// Relay says where accepted messages go.
type Relay struct {
	To         []Target // in order of preference; the next is tried while the one before does not answer
	Quarantine string   // directory of a Maildir
	// Connections to each next hop that are in use at once. Default: half of Submission.Limits.Connections.
	Connections int
	Timeouts    relay.Timeouts // of each step; zero: relay's
}

// Target is one next hop.
type Target struct {
	// URL is smtp://host:port, smtps://host:port, lmtp://host:port, lmtp+unix:///path or maildir:/path.
	URL          string
	StartTLS     string // "auto" (where offered), "off", "required" (offered, and the certificate verifies)
	CA           string // PEM file of authorities; "": the system's
	ServerName   string // the certificate must be for; "": the host of URL
	Username     string // for AUTH; "": none
	PasswordFile string // its first line is the password
}

// Milter is the milter front end.
type Milter struct {
	Listen []MilterListener
	Limits milter.Limits // none of its fields is zero
}

// MilterListener is one socket.
type MilterListener struct {
	Name    string      // in facts and logs; default: the address as it is written
	Network string      // "unix", "tcp" or "systemd"
	Address string      // path, host:port, or the name that the socket unit gives its socket
	Mode    os.FileMode // of a unix socket; 0660
	Group   string      // of a unix socket, a name or a number; "": the process's
	OnError string      // verdict where policy cannot decide: "defer", "reject", "accept"; default: Policy's
}

// Spec is the listener as it is written: "unix:/path", "tcp:host:port" or "systemd:name".
func (l MilterListener) Spec() string { return l.Network + ":" + l.Address }

// Policy is the bundle and how it is asked.
type Policy struct {
	Bundle  string        // directory, .tar.gz, https://, http:// or oci://; "": the default bundle
	Data    []string      // extra data documents, laid over the bundle's
	OnError string        // verdict where policy cannot decide: "defer", "reject", "accept"
	Timeout time.Duration // of one evaluation; 100 ms
	// AllowBuiltins names builtins that are otherwise refused: those that reach the network, the environment or chance.
	AllowBuiltins []string
	Shadow        *Candidate    // decides beside the policy, without effect; nil: none
	Canary        *Canary       // decides for a share of identities; nil: none
	Poll          time.Duration // how often a bundle that is not on this machine is asked for; 30 s
	Tests         string        // "required": a bundle's own tests must pass; "off"
	TestTimeout   time.Duration // of all of them; 30 s
	Verify        Verify
	// How a bundle is fetched.
	TokenFile             string // its first line is a bearer token, or with Username that user's password
	Username              string
	CA                    string // PEM file of authorities; "": the system's
	ClientCert, ClientKey string // PEM files; both or neither
	Insecure              bool   // in the clear over networks, too
}

// Verify says whose signatures bundles must have; without keys, nobody's.
type Verify struct {
	Keys    map[string]VerifyKey // by their id
	Scope   string               // that signatures must be for
	Exclude []string             // patterns of files that need no signature
}

// VerifyKey verifies signatures.
type VerifyKey struct {
	File      string // PEM of a public key or certificate, or a secret
	Algorithm string // RS256, ES256, HS256 and their like
}

// DecisionLog is where decisions are written, one JSON line each.
type DecisionLog struct {
	File   string // "": none is written
	Strict bool   // what cannot be logged is deferred; otherwise it is counted
	Input  string // "read": the facts that the policy reads; "full": all but the body, for replaying other policies
	Sync   string // to disk: "none", "interval", "each"
	Rotate DecisionRotate
	Mask   DecisionMask
	Upload DecisionUpload
	Labels map[string]string // in every line
}

// DecisionRotate says when the file is full and what becomes of it.
type DecisionRotate struct {
	Size     int64 // 0: the file grows
	Keep     int
	Compress bool
}

// DecisionMask says what the lines do not tell. Bodies never are in them.
type DecisionMask struct {
	Addresses                 string // "plain", "hash", "domain"
	Subject                   string // "keep", "erase"
	ClientIP                  string // "keep", "hash", "network"
	KeepHeaders, EraseHeaders []string
	KeyFile                   string // of hashes; default: one that is made in StateDir
}

// Hashes says that a key is needed.
func (m DecisionMask) Hashes() bool { return m.Addresses != "plain" || m.ClientIP == "hash" }

// DecisionUpload is the service that lines are sent to.
type DecisionUpload struct {
	URL       string // "": none
	TokenFile string // its first line is the bearer token; "": none
	CA        string // PEM file of authorities; "": the system's
	Buffer    int64  // octets that may wait
	Batch     int64  // octets of a request, before compression
	Interval  time.Duration
	Timeout   time.Duration
}

// Admin serves /metrics and /healthz.
type Admin struct {
	Listen string // "": not served
	// Public lets Listen be an address that other machines reach. Nobody is asked who they are there.
	Public bool
	// Autoconfig is served there, too, for a web server in front to pass on.
	Autoconfig Autoconfig
}

// Log is the program's own log, on standard error.
type Log struct {
	Level  slog.Level
	Format string // "auto" (text on a terminal, JSON otherwise), "text", "json"
}

// Default is the configuration without a file: loopback 2587 and 2465, a certificate of our own making, the default bundle,
// and everything that is written lies in dir.
func Default(dir string) *Config {
	c := defaults(dir)
	c.fill()
	return c
}

// defaults are the values that do not hang on others.
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
			Received: "full", RequireAuth: true, RecentLogins: RecentLogins{Mode: 0o660},
		},
		Milter: Milter{Limits: milter.Limits{}.OrDefault()},
		Policy: Policy{OnError: "defer", Timeout: 100 * time.Millisecond, Poll: 30 * time.Second, Tests: "required", TestTimeout: 30 * time.Second},
		DecisionLog: DecisionLog{
			Input: "read", Sync: "none", Rotate: DecisionRotate{Keep: 10, Compress: true}, Mask: DecisionMask{Addresses: "plain", Subject: "keep", ClientIP: "keep"},
			Upload: DecisionUpload{Buffer: 16 << 20, Batch: 256 << 10, Interval: 5 * time.Second, Timeout: 30 * time.Second},
		},
		Log: Log{Level: slog.LevelInfo, Format: "auto"},
	}
}
