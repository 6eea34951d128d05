package offstage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage/internal/wake"
)

// EndedError is what Await returns for a job that did not succeed.
type EndedError struct {
	JobID   int64
	Outcome Outcome
	Reason  string // the last error, or the reason of a cancel
}

func (e *EndedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("job %d %s", e.JobID, e.Outcome)
	}
	return fmt.Sprintf("job %d %s: %s", e.JobID, e.Outcome, e.Reason)
}

// Await waits until the job has ended and decodes its result into T. It returns *EndedError for every other outcome than
// succeeded, ErrNotFound for a job that is unknown, and ctx's error when that ends first. A job whose
// history is not kept (keep "none", by its task or its own option) is unknown as well if it ended before Await was
// called: what somebody awaits is kept from then on only. Give a job that is to be awaited the option keep "all". It is told by the database, and looks by itself now and then.
func Await[T any](ctx context.Context, c *Client, id int64) (result T, err error) {
	st, err := c.await(ctx, id)
	if err != nil {
		return result, err
	}
	if st.Outcome != OutcomeSucceeded {
		return result, &EndedError{id, st.Outcome, st.Error}
	}
	if st.Result != nil {
		if err := json.Unmarshal(st.Result, &result); err != nil {
			return result, fmt.Errorf("await job %d: its result does not fit %T: %w", id, result, err)
		}
	}
	return result, nil
}

func (c *Client) await(ctx context.Context, id int64) (Status, error) {
	if c.pool == nil {
		return Status{}, errors.New("await: the client has no pool")
	}
	outside := *c
	outside.db = pgxDB{c.pool} // never inside the caller's transaction: it would wait for itself
	var told <-chan struct{}
	var announced time.Time
	// The settle that ends the job looks for our row before it commits. One that looked just before we wrote it is
	// over soon: so look again soon at first.
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		if time.Since(announced) > 30*time.Second {
			if err := outside.each(ctx, "await", `select offstage.await_job($1::bigint, '1 min')`, []any{id}, discard); err != nil {
				return Status{}, err
			}
			announced = time.Now()
		}
		st, err := outside.Status(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return st, fmt.Errorf("await: no job with this id is known; if it has ended already, its history is not kept "+
				"(keep \"none\", or it is older than retention): add it with keep \"all\" to await it later: %w", err)
		}
		if err != nil || st.Outcome != "" {
			return st, err
		}
		if told == nil { // who need not wait makes no connection; what ends just now is seen by the next look
			ch, leave := c.events.join(id)
			defer leave()
			told = ch
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Status{}, fmt.Errorf("await job %d: %w", id, ctx.Err())
		case <-told:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func discard(r rows) error { return nil }

// events is one listening connection for all awaits of a client; it lives while there are some.
type events struct {
	pool   *pgxpool.Pool
	schema string

	mu      sync.Mutex
	waiting map[int64]map[chan struct{}]bool
	stop    context.CancelFunc // nil: not listening
}

func newEvents(pool *pgxpool.Pool, schema string) *events {
	return &events{pool: pool, schema: schema, waiting: map[int64]map[chan struct{}]bool{}}
}

func (e *events) join(id int64) (told <-chan struct{}, leave func()) {
	ch := make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting[id] == nil {
		e.waiting[id] = map[chan struct{}]bool{}
	}
	e.waiting[id][ch] = true
	if e.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		e.stop = cancel
		l := wake.Listener{Connect: wake.Connector(e.pool), Channels: []string{"offstage:settled"}, On: e.heard}
		go l.Run(ctx)
	}
	return ch, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.waiting[id], ch)
		if len(e.waiting[id]) == 0 {
			delete(e.waiting, id)
		}
		if len(e.waiting) == 0 {
			e.shut()
		}
	}
}

func (e *events) heard(channel, payload string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tell := func(list map[chan struct{}]bool) {
		for ch := range list {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
	if channel == "" { // connected: anything may have been missed
		for _, list := range e.waiting {
			tell(list)
		}
		return
	}
	schema, id, _ := strings.Cut(payload, ":")
	if n, err := strconv.ParseInt(id, 10, 64); err == nil && schema == e.schema {
		tell(e.waiting[n])
	}
}

func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shut()
}

// shut ends the listening connection. mu is held.
func (e *events) shut() {
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
}
