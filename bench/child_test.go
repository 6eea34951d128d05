package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Pauses between bursts do not count.
func TestInParallelLeavesOutPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &child{config: agentConfig{Writers: 3, Millis: 1000, Burst: 5, Pause: 150}}
		var calls atomic.Int64
		n, busy, err := inParallel(t.Context(), c, func(context.Context, int) error {
			calls.Add(1)
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		// Five times 50 ms of work and 150 ms of pause.
		if err != nil || n != 75 || calls.Load() != 75 || busy != 250*time.Millisecond {
			t.Errorf("inParallel = %d (%d calls) in %s, %v", n, calls.Load(), busy, err)
		}
	})
}

func TestInParallelWithoutPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &child{config: agentConfig{Writers: 2, Millis: 1000}}
		n, busy, err := inParallel(t.Context(), c, func(context.Context, int) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		if err != nil || n != 200 || busy != time.Second {
			t.Errorf("inParallel = %d in %s, %v", n, busy, err)
		}
		refused := errors.New("refused")
		if _, _, err := inParallel(t.Context(), c, func(context.Context, int) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("inParallel = %v", err)
		}
	})
}

func TestPacedKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		s := &paced{child: &child{config: agentConfig{Rate: 500}}, add: func(context.Context, int) error {
			time.Sleep(20 * time.Millisecond)
			calls.Add(1)
			return nil
		}}
		s.start(t.Context())
		time.Sleep(2*time.Second + time.Millisecond)
		n, err := s.stop()
		// Those under way are waited for.
		if err != nil || n != 1000 || calls.Load() != 1000 {
			t.Errorf("stop = %d, %v after %d calls", n, err, calls.Load())
		}
	})
}
