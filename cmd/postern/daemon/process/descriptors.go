package process

import (
	"errors"
	"fmt"

	"github.com/postern-mail/postern/cmd/postern/config"
)

// descriptors that a process takes besides connections and messages: logs, listeners, the policy's source, the admin server and
// its clients, backends.
const otherDescriptors = 100

// descriptors says how many file descriptors a configuration may take: at least, for the connections alone, and at most, with a
// connection to the next hop and a temporary file for each.
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

// CheckDescriptors compares what the configuration may take with what the process may open; allowed 0: that is not known. It is an error
// where not even the connections that the file asks for would fit, and a warning where not everything does.
func CheckDescriptors(c *config.Config, allowed uint64) (warning string, err error) {
	least, most := descriptors(c)
	asked := c.Written("submission.limits.connections") || c.Written("milter.limits.connections")
	const mend = "raise the limit of open files (LimitNOFILE= in a systemd unit, ulimit -n), or write less under submission.limits.connections or milter.limits.connections"
	switch {
	case allowed == 0 || uint64(most) <= allowed:
		return "", nil
	case uint64(least) > allowed && asked:
		return "", errors.New(fmt.Sprintf("the connections that are configured take %d file descriptors, and %d are allowed: ", least, allowed) + mend)
	}
	return fmt.Sprintf("the limits that are configured allow for %d file descriptors, and %d are allowed; beyond them connections wait and messages are deferred: ", most, allowed) + mend, nil
}
