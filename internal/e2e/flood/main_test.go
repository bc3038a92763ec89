package flood

import (
	"os"
	"testing"

	"github.com/postern-mail/postern/internal/e2e"
)

// TestMain is also the program that floods: startFlood starts this test binary again.
func TestMain(m *testing.M) {
	if kind := os.Getenv(floodKind); kind != "" {
		runFlood(kind, os.Getenv(floodAddr))
		return
	}
	e2e.Main(m)
}
