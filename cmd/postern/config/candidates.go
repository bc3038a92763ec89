package config

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/yamldoc"
)

// Candidate is a bundle that runs beside the policy. It is fetched, verified and tested like that of the policy.
type Candidate struct {
	Bundle string
	Data   []string // more data documents; none for those of the policy
}

// Canary is a Candidate that decides for a share of identities, until it fails or refuses too much.
type Canary struct {
	Candidate
	Share        float64 // of identities, above 0 and at most 1; 0.05
	MaxFailures  float64 // share of its decisions that may fail, as the mean over identities; 0.01
	MaxRefusals  float64 // by how much its share of refusals, as the mean over identities, may exceed that of the policy; 0.05
	MinDecisions int     // in a window, before the bounds apply; 100

	MinIdentities int           // that must fare badly; 3
	Window        time.Duration // in which an identity weighs once; an hour
}

// Of returns the policy with the bundle and data of a candidate instead of its own.
func (p Policy) Of(c Candidate) Policy {
	p.Bundle = c.Bundle
	if len(c.Data) > 0 {
		p.Data = c.Data
	}
	return p
}

func (r *reader) shadow(n yamldoc.Node) {
	c := &Candidate{}
	r.section(n, yamldoc.Keys{
		"bundle": func(n yamldoc.Node) { r.bundle(n, &c.Bundle) },
		"data":   func(n yamldoc.Node) { r.candidateData(n, c) },
	})
	if c.Bundle == "" && !r.failed(n) {
		n.Fail("has no bundle", "write shadow: {bundle: candidate/}")
	}
	r.c.Policy.Shadow = c
}

func (r *reader) canary(n yamldoc.Node) {
	c := &Canary{Share: 0.05, MaxFailures: 0.01, MaxRefusals: 0.05, MinDecisions: 100, MinIdentities: 3, Window: time.Hour}
	r.section(n, yamldoc.Keys{
		"bundle":        func(n yamldoc.Node) { r.bundle(n, &c.Bundle) },
		"data":          func(n yamldoc.Node) { r.candidateData(n, &c.Candidate) },
		"share":         func(n yamldoc.Node) { r.percent(n, &c.Share) },
		"max_failures":  func(n yamldoc.Node) { r.percent(n, &c.MaxFailures) },
		"max_refusals":  func(n yamldoc.Node) { r.percent(n, &c.MaxRefusals) },
		"min_decisions": func(n yamldoc.Node) { set(&c.MinDecisions)(n.Int(1, 1_000_000)) },

		"min_identities": func(n yamldoc.Node) { set(&c.MinIdentities)(n.Int(1, 1000)) },
		"window":         func(n yamldoc.Node) { set(&c.Window)(n.Duration(time.Minute, 7*24*time.Hour)) },
	})
	switch {
	case r.failed(n):
	case c.Bundle == "":
		n.Fail("has no bundle", "write canary: {bundle: candidate/, share: 5%}")
	case c.Share == 0:
		n.Fail("has a share of 0", "write share: 5%, or remove canary")
	}
	r.c.Policy.Canary = c
}

func (r *reader) candidateData(n yamldoc.Node, c *Candidate) {
	r.list(n, func(_ yamldoc.Node, s string) { c.Data = append(c.Data, r.join(s)) })
}

// percent reads "5%" or "0.5%" as a share.
func (r *reader) percent(n yamldoc.Node, to *float64) {
	s, ok := n.Text(20)
	if !ok {
		return
	}
	number, has := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !has || err != nil || !(v >= 0 && v <= 100) {
		n.Fail(fmt.Sprintf("%q is not a share", s), "write a percentage from 0% to 100%, such as 5%")
		return
	}
	*to = v / 100
}

// bundleHere checks a bundle on this machine.
func (v *validator) bundleHere(key, bundle string) {
	if info, err := os.Stat(bundle); err != nil {
		v.add(key, bundle+": "+reason(err), "name a directory, or a .tar.gz made by opa build")
	} else if !info.IsDir() && !strings.HasSuffix(bundle, ".tar.gz") && !strings.HasSuffix(bundle, ".tgz") {
		v.add(key, bundle+" is neither a directory nor a .tar.gz", "name one of these")
	}
}

// candidates checks shadow and canary.
func (v *validator) candidates() {
	check := func(key string, c Candidate) {
		switch p := v.c.Policy.Of(c); {
		case c.Bundle == "":
		case p.remote():
			if err := p.Remote().CheckAddress(p.Bundle); err != nil {
				v.fault(key+".bundle", err)
			}
		default:
			v.bundleHere(key+".bundle", c.Bundle)
		}
		for i, path := range c.Data {
			v.file(v.element(key+".data", i), path)
		}
	}
	if c := v.c.Policy.Shadow; c != nil {
		check("policy.shadow", *c)
	}
	if c := v.c.Policy.Canary; c != nil {
		check("policy.canary", c.Candidate)
	}
}
