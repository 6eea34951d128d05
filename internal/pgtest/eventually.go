package pgtest

import (
	"errors"
	"testing"
	"time"
)

// Check is what Eventually asks: it has come true, or the error says what is still missing.
type Check interface {
	func() bool | func() error
}

// Eventually asks again and again, at once at first and every 20 ms in the end, until the answer is
// true (or no error). After the deadline the test fails with the last error.
func Eventually[C Check](t testing.TB, deadline time.Duration, check C) {
	t.Helper()
	ask := asError(check)
	over := time.NewTimer(deadline)
	defer over.Stop()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		next := time.NewTimer(wait)
		select {
		case <-next.C:
		case <-over.C:
			next.Stop()
			t.Fatalf("not within %v: %v", deadline, err)
		}
	}
}

func asError[C Check](check C) func() error {
	switch check := any(check).(type) {
	case func() error:
		return check
	case func() bool:
		return func() error {
			if check() {
				return nil
			}
			return errors.New("the condition has not come true")
		}
	}
	panic("unreachable: the constraint has no other type")
}
