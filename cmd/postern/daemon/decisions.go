package daemon

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/version"
	"github.com/postern-mail/postern/engine/decisionlog"
)

// openDecisions opens the decision log of a configuration. It returns nil where none is configured.
func openDecisions(c config.DecisionLog, log *slog.Logger, metrics prometheus.Registerer) (*decisionlog.Log, error) {
	if c.File == "" && c.Upload.URL == "" {
		return nil, nil
	}
	o, err := decisionOptions(c)
	if err != nil {
		return nil, exitcode.UsageError(err)
	}
	if c.File != "" {
		if err := os.MkdirAll(filepath.Dir(c.File), 0o700); err != nil {
			return nil, err
		}
	}
	o.Logger, o.Metrics = log, metrics
	return decisionlog.Open(o)
}

// decisionOptions returns the options of a checked configuration. It makes the key for hashes if the file does not exist.
func decisionOptions(c config.DecisionLog) (decisionlog.Options, error) {
	info, _ := debug.ReadBuildInfo()
	release := version.Read(info).Version
	o := decisionlog.Options{
		File: c.File, Strict: c.Strict,
		Sync:   map[string]decisionlog.Sync{"interval": decisionlog.SyncInterval, "each": decisionlog.SyncEach}[c.Sync],
		Rotate: decisionlog.Rotate{Size: c.Rotate.Size, Age: c.Rotate.Age, Keep: c.Rotate.Keep, Compress: c.Rotate.Compress}, MaxLine: int(c.MaxLine),
		Mask: decisionlog.Mask{
			Addresses:    map[string]decisionlog.Addresses{"hash": decisionlog.HashedAddresses, "domain": decisionlog.DomainAddresses}[c.Mask.Addresses],
			ClientIP:     map[string]decisionlog.ClientIP{"hash": decisionlog.HashedClientIP, "network": decisionlog.NetworkClientIP}[c.Mask.ClientIP],
			EraseSubject: c.Mask.Subject == "erase",
			EraseHeaders: c.Mask.EraseHeaders, KeepHeaders: c.Mask.KeepHeaders,
		},
		Labels: map[string]string{"version": release},
	}
	maps.Copy(o.Labels, c.Labels)
	var err error
	if c.Mask.Hashes() {
		if o.Mask.Key, err = decisionlog.LoadKey(c.Mask.KeyFile, true); err != nil {
			return o, err
		}
	}
	if u := c.Upload; u.URL != "" {
		o.Upload = &decisionlog.Upload{
			URL: u.URL, TokenFile: u.TokenFile, UserAgent: "postern/" + release,
			Batch: int(u.Batch), Buffer: int(u.Buffer), Interval: u.Interval, Timeout: u.Timeout,
		}
		if u.CA != "" {
			if o.Upload.Roots, err = certs.LoadPool(u.CA); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}
