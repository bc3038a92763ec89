package restart

import (
	"testing"

	"github.com/postern-mail/postern/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }
