package decisionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// ownFields are the fields of a line that OPA's events do not have; docs/reference/decision-log.md lists them.
var ownFields = []string{"id", "stage", "door", "listener", "client", "login", "from", "recipients", "latency_us", "smtputf8", "on_error", "parts"}

// asEvent reads a line, less our own fields, into OPA's struct. A field that the struct does not have is an error.
func asEvent(t *testing.T, line string) logs.EventV1 {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatal(err)
	}
	for _, f := range ownFields {
		delete(fields, f)
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(rest))
	dec.DisallowUnknownFields()
	var event logs.EventV1
	if err := dec.Decode(&event); err != nil {
		t.Fatalf("%v in %s", err, rest)
	}
	return event
}

// TestEvent: OPA's own struct reads a line whole, and writes it again as it was.
func TestEvent(t *testing.T) {
	r := recordOf(t, gossip)
	r.Transaction.Failure = engine.Reject
	r.Transaction.Envelope.FromParams = message.Params{"SMTPUTF8": ""}
	enc, err := newEncoder(Mask{Addresses: HashedAddresses, EraseSubject: true, Key: testKey}, map[string]string{"id": "x", "version": "1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := NewEntry(r)
	e.number = 17
	line := string(enc.line(nil, e))
	event := asEvent(t, line)
	if event.Path != "postern/message" || event.Labels["version"] != "1" || event.RequestID != 17 || event.RequestedBy != "192.0.2.77" || event.Query != "" ||
		!event.Timestamp.Equal(r.Transaction.Now) || event.Input == nil || event.Result == nil || len(event.Erased) == 0 || len(event.Masked) == 0 ||
		event.Metrics["timer_rego_query_eval_ns"] != float64(r.Decision.Latency.Nanoseconds()) {
		t.Errorf("%+v", event)
	}
	again, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := json.Unmarshal(again, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(line), &want); err != nil {
		t.Fatal(err)
	}
	for _, f := range ownFields {
		if _, ok := want[f]; !ok {
			t.Errorf("the line has no %s", f)
		}
		delete(want, f)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("OPA makes of it\n%s\nof\n%s", again, line)
	}
}

// TestErrorEvent: OPA reads error only as any, for its struct has an interface there; ours has the fields of topdown's.
func TestErrorEvent(t *testing.T) {
	r := record("x")
	r.Decision.Err = io.ErrUnexpectedEOF
	var ours struct{ Error map[string]any }
	if err := json.Unmarshal(NewEntry(r).AppendJSON(nil), &ours); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(logs.EventV1{Error: &topdown.Error{Code: "c", Message: "m", Location: &ast.Location{}}})
	if err != nil {
		t.Fatal(err)
	}
	var theirs struct{ Error map[string]any }
	if err := json.Unmarshal(text, &theirs); err != nil {
		t.Fatal(err)
	}
	for f := range ours.Error {
		if _, ok := theirs.Error[f]; !ok {
			t.Errorf("error.%s is not in OPA's: %v", f, theirs.Error)
		}
	}
	if len(ours.Error) != 2 {
		t.Errorf("%v", ours.Error)
	}
}

// request is one that a service has got.
type request struct {
	method, path string
	header       http.Header
	events       []json.RawMessage
}

// readRequest reads it as a service of OPA's decision log API does.
func readRequest(t *testing.T, r *http.Request) request {
	zip, err := gzip.NewReader(r.Body)
	if err != nil {
		t.Error(err)
		return request{}
	}
	out := request{method: r.Method, path: r.URL.Path, header: r.Header}
	if err := json.NewDecoder(zip).Decode(&out.events); err != nil {
		t.Error(err)
	}
	return out
}

// TestAsOPASends: our request differs from that of OPA's own plugin in nothing but who sends it and what is in it.
func TestAsOPASends(t *testing.T) {
	got := make(chan request, 8)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- readRequest(t, r) }))
	defer srv.Close()
	theirs, ours := sentByOPA(t, srv.URL, got), sentByUs(t, srv.URL, got)
	if theirs.method != ours.method || theirs.path != ours.path {
		t.Errorf("OPA sends %s %s, we %s %s", theirs.method, theirs.path, ours.method, ours.path)
	}
	names := func(h http.Header) []string { return slices.Sorted(maps.Keys(h)) }
	if !slices.Equal(names(theirs.header), names(ours.header)) {
		t.Errorf("OPA sends the header fields %v, we %v", names(theirs.header), names(ours.header))
	}
	for _, name := range []string{"Content-Type", "Content-Encoding", "Authorization"} {
		if a, b := theirs.header[name], ours.header[name]; !slices.Equal(a, b) {
			t.Errorf("%s: OPA sends %q, we %q", name, a, b)
		}
	}
	if len(theirs.events) != 1 || len(ours.events) != 2 {
		t.Fatalf("%d and %d events", len(theirs.events), len(ours.events))
	}
	var fields, event map[string]any
	if err := json.Unmarshal(theirs.events[0], &fields); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(ours.events[0], &event); err != nil {
		t.Fatal(err)
	}
	for f := range fields {
		if _, ok := event[f]; !ok {
			t.Errorf("OPA's event has %s, ours has not: %s", f, ours.events[0])
		}
	}
	asEvent(t, string(ours.events[0]))
}

func sentByOPA(t *testing.T, url string, got <-chan request) request {
	t.Helper()
	ctx := context.Background()
	manager, err := plugins.New([]byte(`{"labels": {"app": "x"}, "services": {"s": {"url": "`+url+`/v1", "credentials": {"bearer": {"token": "t0ken"}}}}}`), "instance", inmem.New())
	if err != nil {
		t.Fatal(err)
	}
	config, err := logs.NewConfigBuilder().WithBytes([]byte(`{"service": "s", "reporting": {"min_delay_seconds": 1, "max_delay_seconds": 1}}`)).
		WithServices(manager.Services()).WithPlugins(manager.Plugins()).Parse()
	if err != nil {
		t.Fatal(err)
	}
	plugin := logs.New(config, manager)
	if err := plugin.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var input, result any = map[string]any{"id": "x"}, map[string]any{"verdict": "accept"}
	timers := metrics.New()
	timers.Timer(metrics.RegoQueryEval).Start()
	timers.Timer(metrics.RegoQueryEval).Stop()
	if err := plugin.Log(ctx, &server.Info{
		DecisionID: newUUID(), Path: "postern/mail", Input: &input, Results: &result, Timestamp: time.Now(), RemoteAddr: "192.0.2.7", RequestID: 1,
		Bundles: map[string]server.BundleInfo{"postern": {Revision: "r"}}, Metrics: timers,
	}); err != nil {
		t.Fatal(err)
	}
	r := wait(t, got)
	plugin.Stop(ctx)
	return r
}

func sentByUs(t *testing.T, url string, got <-chan request) request {
	t.Helper()
	l, err := Open(Options{Upload: &Upload{URL: url + "/v1", TokenFile: written(t, "t0ken\n")}, Labels: map[string]string{"version": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := l.Record(context.Background(), record(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := wait(t, got)
	if strings.HasPrefix(r.header.Get("User-Agent"), "Go-http-client") {
		t.Error("the request does not say who sends it")
	}
	return r
}

func wait[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came within 30 seconds")
	}
	return v
}
