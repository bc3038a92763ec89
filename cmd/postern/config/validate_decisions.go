package config

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/internal/netaddr"
)

func (v *validator) decisionLog() {
	d := v.c.DecisionLog
	if d.File == "" {
		const mend = "add file: decisions.jsonl"
		if d.Strict {
			v.add("decision_log.strict", "strict needs a file", mend)
		}
		for _, key := range []string{"sync", "rotate", "mask", "labels"} {
			if key = "decision_log." + key; v.c.Written(key) && (d.Upload.URL == "" || key == "decision_log.sync" || key == "decision_log.rotate") {
				v.add(key, "there is no file that this applies to", mend)
			}
		}
	}
	octets := 0
	for name, text := range d.Labels {
		octets += len(name) + len(text)
	}
	if most := int(d.MaxLine / 32); octets > most {
		v.add("decision_log.labels", fmt.Sprintf("the labels take %d octets of every line", octets), fmt.Sprintf("shorten them to %d octets, or write a larger max_line", most))
	}
	if m := d.Mask; len(m.KeepHeaders) > 0 && len(m.EraseHeaders) > 0 {
		v.add("decision_log.mask.headers", "with both keep and erase it is not clear what happens to the others", "write one of them; keep erases all others, erase keeps them")
	}
	const key = "decision_log.mask.key_file"
	if v.c.Written(key) {
		if _, err := decisionlog.LoadKey(d.Mask.KeyFile, false); errors.Is(err, decisionlog.ErrKey) {
			v.add(key, d.Mask.KeyFile+": "+decisionlog.ErrKey.Error(), "make one with openssl rand -hex 32")
		} else if err != nil {
			v.add(key, d.Mask.KeyFile+": "+reason(err), "make it with openssl rand -hex 32, or remove key_file, so that postern makes one in the state directory")
		}
		v.private(key, d.Mask.KeyFile)
		if !d.Mask.Hashes() {
			v.warn(key, "nothing is hashed", "write addresses: hash, or remove key_file")
		}
	}
	if d.Upload.URL != "" {
		v.upload(d.Upload)
	}
}

func (v *validator) upload(d DecisionUpload) {
	const key = "decision_log.upload"
	if u, err := url.Parse(d.URL); err == nil && u.Scheme == "http" && !netaddr.IsLoopback(u.Hostname()) {
		if d.TokenFile != "" {
			v.add(key+".url", "the token would cross the network unencrypted", "write https://")
		} else {
			v.warn(key+".url", "senders and recipients would cross the network unencrypted", "write https://")
		}
		if d.CA != "" {
			v.add(key+".ca", "http:// has no certificate to verify", "write https://, or remove ca:")
		}
	}
	if d.Buffer < 2*d.Batch {
		v.add(key+".batch", fmt.Sprintf("a buffer of %d bytes does not hold two batches of %d", d.Buffer, d.Batch), "write a larger buffer, or a smaller batch")
	}
	if d.CA != "" && v.file(key+".ca", d.CA) {
		if _, err := certs.LoadPool(d.CA); err != nil {
			v.add(key+".ca", err.Error(), "")
		}
	}
	v.secret(key+".token_file", d.TokenFile)
}
