// Package postfix reads the configuration of Postfix through postconf(1), finds settings that do not work well with a milter, and converts
// tables of senders. It changes nothing and starts no goroutines.
package postfix

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Severity of a Finding.
type Severity string

// The severities. An error lets mail pass unfiltered or refuses all of it. A warning costs facts or features.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one setting that does not work well with the milter.
type Finding struct {
	Severity Severity `json:"severity"`
	Where    string   `json:"where"` // "main.cf: milter_default_action", "master.cf: submission/inet"
	Message  string   `json:"message"`
	Mend     string   `json:"mend"`
}

// Setup is the configuration of a Postfix.
type Setup struct {
	Main     map[string]string // parameter to effective value
	Services []Service
	// ActionSet says that main.cf sets milter_default_action.
	ActionSet bool
}

// Service is a line of master.cf.
type Service struct {
	Name    string // "submission/inet"
	Command string // "smtpd", "cleanup"
	Chroot  bool
	Options map[string]string // -o name=value
}

var parameters = []string{
	"compatibility_level", "config_directory", "content_filter", "internal_mail_filter_classes", "mail_owner", "mail_version", "milter_command_timeout",
	"milter_connect_macros", "milter_connect_timeout", "milter_content_timeout", "milter_default_action", "milter_header_checks", "milter_helo_macros",
	"milter_macro_v", "milter_mail_macros", "milter_protocol", "non_smtpd_milters", "queue_directory", "receive_override_options", "smtpd_milter_maps",
	"smtpd_milters", "smtpd_proxy_filter", "smtpd_sasl_auth_enable", "smtpd_tls_security_level", "smtpd_tls_wrappermode",
}

// Read reads the configuration through postconf. configDir is the directory of main.cf, or "" for the default. It may take 10 seconds.
func Read(ctx context.Context, configDir string) (*Setup, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s := &Setup{}
	// Read asks for these parameters only, because expanding all of them takes long.
	all, err := postconf(ctx, configDir, append([]string{"-x"}, parameters...)...)
	if err != nil {
		return nil, err
	}
	s.Main = assignments(all)
	// With -n, postconf leaves out what main.cf does not set.
	own, err := postconf(ctx, configDir, "-n", "milter_default_action")
	if err != nil {
		return nil, err
	}
	s.ActionSet = len(assignments(own)) > 0
	services, err := postconf(ctx, configDir, "-F", "-x")
	if err != nil {
		return nil, err
	}
	options, err := postconf(ctx, configDir, "-P", "-x")
	if err != nil {
		return nil, err
	}
	s.services(assignments(services), assignments(options))
	return s, nil
}

func postconf(ctx context.Context, dir string, args ...string) ([]byte, error) {
	if dir != "" {
		args = append([]string{"-c", dir}, args...)
	}
	path, err := exec.LookPath("postconf")
	if err != nil {
		path = "/usr/sbin/postconf"
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("postconf %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

func assignments(b []byte) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, "="); ok {
			out[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return out
}

// services reads "submission/inet/chroot = y" and "submission/inet/smtpd_milters = ...".
func (s *Setup) services(fields, options map[string]string) {
	at := map[string]int{}
	for key, value := range fields {
		dir, field := filepath.Split(key)
		name := strings.TrimSuffix(dir, "/")
		i, ok := at[name]
		if !ok {
			i = len(s.Services)
			at[name] = i
			s.Services = append(s.Services, Service{Name: name, Options: map[string]string{}})
		}
		switch field {
		case "chroot":
			// "-" stands for the default, which is yes below compatibility_level 1.
			level, _, _ := strings.Cut(s.Main["compatibility_level"], ".")
			s.Services[i].Chroot = value == "y" || value == "-" && (level == "" || level == "0")
		case "command":
			if words := strings.Fields(value); len(words) > 0 {
				s.Services[i].Command = words[0]
			}
		}
	}
	for key, value := range options {
		dir, option := filepath.Split(key)
		if i, ok := at[strings.TrimSuffix(dir, "/")]; ok {
			s.Services[i].Options[option] = value
		}
	}
}

// value returns a parameter as it is for the service.
func (s *Setup) value(svc Service, name string) string {
	if v, ok := svc.Options[name]; ok {
		return v
	}
	return s.Main[name]
}
