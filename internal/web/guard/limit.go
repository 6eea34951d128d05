package guard

import (
	"sync"
	"time"
)

// limiter is a token bucket for each of many keys: a key may try burst times at once, and once more after each pause. It
// holds so many keys and no more, however many come.
type limiter struct {
	burst float64
	pause time.Duration
	max   int

	mu      sync.Mutex // guards buckets
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(burst int, pause time.Duration) *limiter {
	return &limiter{burst: float64(burst), pause: pause, max: 10_000, buckets: map[string]bucket{}}
}

// now is what is left to a key. The caller has locked.
func (l *limiter) now(key string, at time.Time) float64 {
	b, ok := l.buckets[key]
	if !ok {
		return l.burst
	}
	return min(l.burst, b.left+float64(at.Sub(b.at))/float64(l.pause))
}

// take spends an attempt; where none is left it answers how long to wait.
func (l *limiter) take(key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	left := l.now(key, at)
	if left < 1 {
		return time.Duration((1 - left) * float64(l.pause))
	}
	l.put(key, bucket{left - 1, at})
	return 0
}

// look is take without spending.
func (l *limiter) look(key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := l.now(key, time.Now()); left < 1 {
		return time.Duration((1 - left) * float64(l.pause))
	}
	return 0
}

// back returns an attempt that was none: whoever it was may pass.
func (l *limiter) back(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	if left := l.now(key, at) + 1; left >= l.burst {
		delete(l.buckets, key)
	} else {
		l.put(key, bucket{left, at})
	}
}

// put makes room first, at the cost of the key that has tried least, of a few.
func (l *limiter) put(key string, b bucket) {
	if _, there := l.buckets[key]; !there && len(l.buckets) >= l.max {
		var victim string
		most, looked := -1.0, 0
		for k := range l.buckets { // begins anywhere
			if left := l.now(k, b.at); left > most {
				victim, most = k, left
			}
			if looked++; looked == 16 {
				break
			}
		}
		delete(l.buckets, victim)
	}
	l.buckets[key] = b
}

// memory knows keys until a time; so many and no more.
type memory struct {
	max int

	mu    sync.Mutex // guards until
	until map[string]time.Time
}

func newMemory(max int) *memory { return &memory{max: max, until: map[string]time.Time{}} }

func (m *memory) add(key string, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.until[key]; !there && len(m.until) >= m.max {
		now, first := time.Now(), ""
		for k, t := range m.until {
			if !t.After(now) {
				delete(m.until, k)
			} else if first == "" || t.Before(m.until[first]) {
				first = k
			}
		}
		if len(m.until) >= m.max {
			delete(m.until, first)
		}
	}
	m.until[key] = until
}

func (m *memory) has(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.until[key].After(time.Now())
}
