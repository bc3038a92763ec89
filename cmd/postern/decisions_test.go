package main

import (
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCollect starts a service of OPA's decision log API that wants a token, sets COLLECT to its URL, and writes the events that
// it gets to collected.jsonl. Its first answer is 503, so that what is there has been sent again.
func cmdCollect(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: collect TOKEN")
	}
	var mu sync.Mutex
	first := true
	name := ts.MkAbs("collected.jsonl")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if first || r.Method != http.MethodPost || r.URL.Path != "/v1/logs" || r.Header.Get("Authorization") != "Bearer "+args[0] {
			first = false
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		var events []json.RawMessage
		zip, err := gzip.NewReader(r.Body)
		if err == nil {
			err = json.NewDecoder(zip).Decode(&events)
		}
		if err == nil {
			err = appendLines(name, events)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	ts.Defer(srv.Close)
	ts.Setenv("COLLECT", srv.URL+"/v1")
}

func appendLines(name string, events []json.RawMessage) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, e := range events {
		if _, err := f.Write(append(e, '\n')); err != nil {
			return err
		}
	}
	return nil
}
