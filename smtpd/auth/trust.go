package auth

import "time"

// What an address may do with a login that it has proved. Failures there do not count for the address, because others behind the
// same address would lock each other out. These bounds hold instead.
const (
	// trustLife is how long a proof counts.
	trustLife = 24 * time.Hour
	// trustFailures is how many wrong passwords since the last success end the trust.
	trustFailures = 50
	// trustBurst is how many wrong passwords may be checked at once, and trustRefill how long it takes until one more may be.
	// With 15 s that is 240 an hour, about as many as the count of an address leaves it with the defaults of Throttle.
	trustBurst  = 8
	trustRefill = 15 * time.Second
	// trustWait is how long a try waits while so many others are being checked that it would be one too many if all failed.
	trustWait = 10 * time.Second
)

// trust is what is known of a login at an address that has proved it. The Throttle's mutex guards it.
type trust struct {
	proved time.Time // the last success
	failed int       // wrong passwords since then

	// The bucket: what was spent at the time at. It drains with time only: a success does not refill it, because the owner's own
	// logins would then make room for more guesses of somebody behind the same address.
	spent float64
	at    time.Time

	checking int           // tries under way
	ended    chan struct{} // closed when one of them ends; nil: nothing waits for that
}

// holds reports whether the address is still trusted with the login.
func (p *trust) holds(now time.Time) bool {
	return now.Sub(p.proved) < trustLife && p.failed < trustFailures
}

func (p *trust) level(now time.Time) float64 {
	return max(0, p.spent-float64(max(0, now.Sub(p.at)))/float64(trustRefill))
}

// room reports whether one more try may be under way. All that are under way may fail, and must then fit into the bucket.
func (p *trust) room(now time.Time) bool {
	return p.level(now)+float64(p.checking)+1 <= trustBurst
}

// fail counts a wrong password. It reports whether that was the one that ended the trust.
func (p *trust) fail(now time.Time) (ended bool) {
	p.spent, p.at = p.level(now)+1, now
	p.failed++
	return p.failed == trustFailures
}

// end says that a try is over, and lets others look again whether there is room.
func (p *trust) end() {
	p.checking--
	if p.ended != nil {
		close(p.ended)
		p.ended = nil
	}
}

// wait returns a channel that is closed when a try ends.
func (p *trust) wait() <-chan struct{} {
	if p.ended == nil {
		p.ended = make(chan struct{})
	}
	return p.ended
}
