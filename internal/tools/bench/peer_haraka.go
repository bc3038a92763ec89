package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/testload"
)

const harakaVersion = "3.3.4"

func harakaPath(o options) string {
	return filepath.Join(o.cache, "haraka", "node_modules", "Haraka", "bin", "haraka")
}

func harakaMissing(o options) string {
	if _, err := exec.LookPath("node"); err != nil || !exists(harakaPath(o)) {
		return "not installed"
	}
	return ""
}

func startHaraka(o options, s site) (*running, error) {
	table := map[string]string{}
	senders(func(address, user string) { table[address] = user })
	list, err := json.Marshal(table)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(s.key)
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(s.cert)
	if err != nil {
		return nil, err
	}
	// Haraka crashes if connection.ini lacks a section. Without a dhparams.pem it spends minutes making one.
	limits, err := os.ReadFile(filepath.Join(o.cache, "haraka", "node_modules", "Haraka", "config", "connection.ini"))
	if err != nil {
		return nil, err
	}
	dh, err := exec.Command("openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048").Output()
	if err != nil {
		return nil, fmt.Errorf("openssl genpkey: %w", err)
	}
	addr := testload.FreeAddr()
	host, port := split(s.sink)
	if err := put(s.dir, map[string]string{
		"config/smtp.ini":           "listen=" + addr + "\ninactivity_timeout=300\n",
		"config/me":                 "bench.example.com\n",
		"config/host_list":          "example.com\n",
		"config/plugins":            "tls\nauth/flat_file\nsender\nqueue/smtp_forward\n",
		"config/log.ini":            "[main]\nlevel=warn\n",
		"config/tls.ini":            "[main]\nkey=key.pem\ncert=cert.pem\n",
		"config/key.pem":            string(key),
		"config/cert.pem":           string(cert),
		"config/connection.ini":     strings.Replace(string(limits), "bytes=26214400", "bytes=268435456", 1),
		"config/dhparams.pem":       string(dh),
		"config/auth_flat_file.ini": fmt.Sprintf("[core]\nmethods=PLAIN\n[users]\n%s=%s\n", login, password),
		"config/smtp_forward.ini":   fmt.Sprintf("[main]\nhost=%s\nport=%s\nenable_outbound=true\n", host, port),
		"plugins/sender.js":         harakaSender,
		"senders.json":              string(list),
	}); err != nil {
		return nil, err
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	p, err := testload.Start("haraka", addr, s.dir, node, harakaPath(o), "-c", s.dir)
	if err != nil {
		return nil, err
	}
	return &running{addr: addr, process: p, output: p.Log.String}, nil
}

// harakaSender is a plugin that checks whether the sender belongs to the login.
const harakaSender = `'use strict'
const owners = new Map(Object.entries(JSON.parse(require('node:fs').readFileSync('senders.json'))))
exports.hook_mail = function (next, connection, params) {
    const user = connection.notes.auth_user
    if (!user) return next(DENY, 'Authenticate first')
    if (owners.get(params[0].address.toLowerCase()) !== user) return next(DENY, 'Not your address')
    next()
}
`
