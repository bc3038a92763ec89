package smtpd

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetrics: each message and connection is counted once, by its outcome, and no gauge is left above zero.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	s := start(t, func(s *Server, _ *Listener) { s.Metrics = NewMetrics(r); s.Limits.MessageBytes = 100 },
		rules(t, "message", `
			reject contains "r" if input.message.header.subject[_] == "reject"
			defer contains "d" if input.message.header.subject[_] == "defer"
			quarantine contains "q" if input.message.header.subject[_] == "hold"
			discard contains "x" if input.message.header.subject[_] == "drop"`))
	c := s.talk(secure + "C: AUTH PLAIN {alice:guess}\nS: 535\nC: AUTH PLAIN {alice:secret}\nS: 235" + envelope + message1 + envelope + message1)
	for subject, code := range map[string]string{"reject": "550", "defer": "451", "hold": "250", "drop": "250"} {
		c.talk(envelope + "C: DATA\nS: 354\nW: \"Subject: " + subject + "\\r\\n\\r\\n.\\r\\n\"\nS: " + code)
	}
	c.talk("C: FOO\nS: 500" + quit)
	s.stop()
	want := map[string]float64{
		"postern_submission_connections": 0, "postern_submission_in_flight": 0, "postern_submission_connections_total accepted": 1,
		"postern_submission_auth_total PLAIN failure": 1, "postern_submission_auth_total PLAIN success": 1,
		"postern_submission_messages_total accepted": 2, "postern_submission_messages_total rejected": 1, "postern_submission_messages_total deferred": 1,
		"postern_submission_messages_total quarantined": 1, "postern_submission_messages_total discarded": 1,
		"postern_submission_refused_commands_total 500": 1, "postern_submission_message_bytes_total": 2*32 + 19 + 18 + 17 + 17,
	}
	for _, name := range countedLimits() {
		want["postern_submission_limit_hits_total "+name] = 0
	}
	for _, why := range []string{"address", "login_at_address", "parallel"} {
		want["postern_submission_auth_throttled_total "+why] = 0
	}
	want["postern_submission_spool_memory_bytes"], want["postern_submission_spool_disk_bytes"] = 0, 0
	got := gather(t, r)
	for name, n := range want {
		if v, ok := got[name]; !ok || v != n {
			t.Errorf("%s is %v, want %v", name, v, n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
}

// gather returns the value of each metric, by its name and the values of its labels.
func gather(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

// TestTLSFacts: a client certificate is a fact only if it was verified.
func TestTLSFacts(t *testing.T) {
	t.Parallel()
	cert, err := x509.ParseCertificate(certificateOnce().Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	state := tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, ServerName: "mx", PeerCertificates: []*x509.Certificate{cert}}
	if f := tlsFacts(state, nil, time.Now()); f.Version != "1.2" || f.Cipher != "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" || f.SNI != "mx" || f.Client != nil {
		t.Errorf("%+v", f)
	}
	state.VerifiedChains = [][]*x509.Certificate{{cert}}
	if f := tlsFacts(state, nil, time.Now()).Client; f == nil || len(f.SANs) != 1 || f.SANs[0] != "dns:mail.example.com" || len(f.SHA256) != 64 {
		t.Errorf("%+v", f)
	}
}
