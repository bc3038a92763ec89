package process

import (
	"errors"
	"fmt"

	"github.com/postern-mail/postern/cmd/postern/config"
)

// otherDescriptors is how many file descriptors a process needs besides connections and messages: for logs, listeners, the policy source,
// the admin server and its clients, and backends.
const otherDescriptors = 100

// descriptors returns how many file descriptors the limits of a configuration allow for: at least for the connections, and at most with a
// temporary file and connections to the next hops for each of them.
func descriptors(c *config.Config) (least, most int) {
	least, most = otherDescriptors, otherDescriptors
	if c.Submission.Enabled() {
		n := c.Submission.Limits.Connections
		least += n
		most += n + n + min(n, c.Relay.Connections)*len(c.Relay.To)
	}
	if len(c.Milter.Listen) > 0 {
		n := c.Milter.Limits.Connections
		least += n
		most += n + n
	}
	return least, most
}

// CheckDescriptors compares the file descriptors that the limits of a configuration allow for with those that the process may open. allowed
// is 0 where that is not known. It returns an error if the process cannot open the connections that the file asks for, and a warning if it
// cannot open everything.
func CheckDescriptors(c *config.Config, allowed uint64) (warning string, err error) {
	least, most := descriptors(c)
	asked := c.Written("submission.limits.connections") || c.Written("milter.limits.connections")
	const mend = "raise the limit of open files (LimitNOFILE= in a systemd unit, ulimit -n), or lower submission.limits.connections or milter.limits.connections"
	switch {
	case allowed == 0 || uint64(most) <= allowed:
		return "", nil
	case uint64(least) > allowed && asked:
		return "", errors.New(fmt.Sprintf("the connections that are configured take %d file descriptors, and %d are allowed: ", least, allowed) + mend)
	}
	return fmt.Sprintf("the limits that are configured allow for %d file descriptors, and %d are allowed; beyond them connections wait and messages are deferred: ", most, allowed) + mend, nil
}
