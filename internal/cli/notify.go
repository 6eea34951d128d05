package cli

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/offstage-dev/offstage/worker"
)

// tellSystemd tells the service manager that started this process how the worker is doing, where there is one: that it is ready, that
// it stops, and, with WatchdogSec=, every now and then that its loops still move. It does so until stop is called.
func (a *app) tellSystemd(ctx context.Context, status func() worker.Status, log *slog.Logger) (stop func()) {
	socket := a.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return func() {}
	}
	if strings.HasPrefix(socket, "@") {
		socket = "\x00" + socket[1:] // abstract
	}
	tell := func(text string) {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err == nil {
			_, err = conn.Write([]byte(text))
			conn.Close()
		}
		if err != nil {
			log.Warn("systemd could not be told", "what", text, "error", err)
		}
	}
	watchdog := time.Duration(0)
	if us, err := strconv.ParseInt(a.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		watchdog = time.Duration(us) * time.Microsecond / 3
	}
	over := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		check := moves(status)
		ready := false
		tick := time.NewTicker(100 * time.Millisecond) // until it is ready
		defer tick.Stop()
		stopping := ctx.Done()
		for {
			if state := status().State; !ready && (state == worker.Working || state == worker.Draining) {
				ready = true
				tell("READY=1\nSTATUS=taking jobs")
				tick.Reset(max(watchdog, time.Second))
			}
			if watchdog > 0 && check(ctx) == nil {
				tell("WATCHDOG=1")
			}
			select {
			case <-tick.C:
			case <-stopping:
				stopping = nil
				tell("STOPPING=1\nSTATUS=waiting for running jobs")
			case <-over:
				return
			}
		}
	})
	return func() { close(over); telling.Wait() }
}
