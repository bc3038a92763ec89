package relay

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// fewer times than in TestKilled: each is two messages, at two next hops or on a kept connection.
const fewer = 15

// keptKillings are deaths of a kept connection at its second message. A connection that is closed before it answers MAIL is replaced
// by a new one, once, and the message arrives. So it does if the connection is closed later, but before the data.
var keptKillings = []killing{
	// Dead before our second MAIL or just behind it, when an answer that is none must not be trusted.
	{"idle", stageMail, small, delivered, map[string]int{hangs: lost, dribbles: delivered | lost, garbage: delivered | lost}},
	{"MAIL", stageMail, small, delivered, map[string]int{hangs: lost, dribbles: lost, garbage: lost}},
	// A reset may overtake MAIL's reply; then it looks as above.
	{"RCPT", stageRcpt, small, lost, map[string]int{closes: lost | delivered, resets: lost | delivered}},
	// As if the time of an idle connection had run out: the transaction begins again at the same next hop.
	{"RCPT 2", stageRcpt, small, delivered, map[string]int{hangs: lost, dribbles: lost, garbage: lost}},
	{"DATA", stageData, small, delivered, map[string]int{hangs: lost, dribbles: lost, garbage: lost}},
	{"354", "", small, lost | uncertain, nil},
	{"body", stageData, large, lost, nil},
	{"dot", stageEnd, small, uncertain, map[string]int{says421: lost}},
	{"answer", stageEnd, small, uncertain, nil},
	{"answered", stageEnd, small, delivered, map[string]int{resets: delivered | uncertain}},
}

// keptHop dies on each connection at its second message; a new one in its place is good.
func (k killing) keptHop(t testing.TB, how string) *fakeHop {
	return startHop(t, script{at: func(c *fakeConn, stage string) bool {
		stage, id, _ := strings.Cut(stage, " X")
		switch {
		case k.at == "idle" && stage == "answered" && c.done == 1:
			return c.die(how)
		case k.at == "answered" && c.done != 2, k.at != "answered" && c.done != 1, stage != k.at:
			return false
		}
		if stage == "dot" && c.n%2 == 0 && how != says421 {
			c.commit("X"+id, "")
		}
		return c.die(how)
	}})
}

// TestKilledKept kills a connection that has been used for a message before.
func TestKilledKept(t *testing.T) {
	testenv.NotShort(t, "many seconds")
	for _, k := range keptKillings {
		for _, how := range ways {
			t.Run(fmt.Sprintf("%s/%s", k.at, how), func(t *testing.T) {
				t.Parallel()
				a := k.keptHop(t, how)
				first := repeat(0, nil)
				second := repeat(fewer, func(id string) error {
					o := k.options(how)
					o.Pool.MaxIdle = 1
					h, err := Open(o, a.url)
					if err != nil {
						return err
					}
					defer h.Close()
					before := send(h, id+".1", small)
					a.note(func() { first[id+".1"] = before })
					return send(h, id, k.size)
				})
				a.stop()
				honest(t, second, a)
				honest(t, first, a)
				for id, err := range second {
					// With the first message, a time-out of this side may have come early.
					if first[id+".1"] == nil {
						k.check(t, how, id, err, k.outcomes(how))
					}
				}
				if n := a.killed.Load(); n < fewer && !slow(how) || n == 0 {
					t.Errorf("it died %d times", n)
				}
			})
		}
	}
}

// TestKilledFailover: a second next hop gets a message only if the first certainly does not have it.
func TestKilledFailover(t *testing.T) {
	testenv.NotShort(t, "many seconds")
	for _, k := range killings {
		for _, how := range ways {
			t.Run(fmt.Sprintf("%s/%d/%s", k.at, k.size, how), func(t *testing.T) {
				t.Parallel()
				a, b := k.hop(t, how, nil), startHop(t, script{})
				ha := openHop(t, k.options(how), a.url)
				hb := openHop(t, Options{}, b.url)
				got := repeat(fewer*small/k.size+5, func(id string) error { // a Failover of its own, or a would be passed over after its first failure
					return send(&Failover{Hops: []Hop{ha, hb}}, id, k.size)
				})
				_, _ = ha.Close(), hb.Close()
				a.stop()
				b.stop()
				honest(t, got, a, b)
				want := k.outcomes(how)
				if want&lost != 0 {
					want = want&^lost | delivered
				}
				if k.stage == stageEnd && how == says421 && want != uncertain && k.at != "answered" {
					want = lost // an answer to the end of data is final
				}
				if k.at == "354" && k.size == small {
					want |= lost // 421 may be read as such an answer
				}
				for id, err := range got {
					k.check(t, how, id, err, want)
					if _, inB := b.committed[id]; inB && a.whole[id] > 0 {
						t.Errorf("%s was given to both", id)
					}
				}
			})
		}
	}
}
