package web

import (
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
