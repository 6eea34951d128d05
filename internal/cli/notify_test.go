package cli

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// systemd hears that a worker is ready, that it lives, and that it stops.
func TestSystemd(t *testing.T) {
	s := newStage(t)
	s.script("hello.sh", "#!/bin/sh\n")
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.env["NOTIFY_SOCKET"], s.env["WATCHDOG_USEC"] = socket, "150000"
	hear := func(text string) {
		t.Helper()
		b := make([]byte, 1000)
		pgtest.Eventually(t, 30*time.Second, func() bool {
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(b)
			return err == nil && strings.HasPrefix(string(b[:n]), text)
		})
	}
	_, stop := s.start("worker")
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	go stop()
	hear("STOPPING=1")
	stop()
}
