package web

import (
	"context"
	"sync"
	"time"

	"github.com/offstage-dev/offstage/internal/view"
)

// followers are all clients that follow jobs: while there are some, one goroutine looks at all their jobs, once a second. So what
// they cost the database does not depend on how many they are.
type followers struct {
	look  func(context.Context, []view.Follow) ([]view.Followed, error)
	every time.Duration

	mu  sync.Mutex // guards what is below
	all map[*follower]bool
	end context.CancelFunc // nil: nobody looks

	come chan struct{} // somebody has come: look at once
}

// perLook is how many jobs are looked at in one statement.
const perLook = 500

// follower is one client.
type follower struct {
	id   view.ID
	seen chan view.Followed // holds one

	// Under followers.mu:
	claim view.ID
	n     int
	ready bool // has reported what it was given
	of    *followers
}

func newFollowers(db *view.DB) *followers {
	return &followers{look: db.Followed, every: time.Second, all: map[*follower]bool{}, come: make(chan struct{}, 1)}
}

// join follows a job from a line of its log on; leave must be called.
func (f *followers) join(id, claim view.ID, n int) *follower {
	one := &follower{id: id, seen: make(chan view.Followed, 1), claim: claim, n: n, ready: true, of: f}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[one] = true
	if f.end == nil {
		var ctx context.Context
		ctx, f.end = context.WithCancel(context.Background())
		go f.run(ctx)
	}
	f.hurry()
	return one
}

// hurry has the next look come at once.
func (f *followers) hurry() {
	select {
	case f.come <- struct{}{}:
	default:
	}
}

func (f *followers) leave(one *follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, one)
	if len(f.all) == 0 && f.end != nil {
		f.end()
		f.end = nil
	}
}

// ready says that the client has been told what was seen.
func (f *followers) ready(one *follower, told []view.LogLine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one.ready = true
	if k := len(told); k > 0 {
		one.claim, one.n = told[k-1].Claim, told[k-1].N
	}
	if len(told) == view.FollowedLines { // there may be more
		f.hurry()
	}
}

func (one *follower) at() (view.ID, int) {
	one.of.mu.Lock()
	defer one.of.mu.Unlock()
	return one.claim, one.n
}

func (f *followers) run(ctx context.Context) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		due, list := f.due()
		for len(due) > 0 {
			k := min(len(due), perLook)
			f.see(ctx, due[:k], list[:k])
			due, list = due[k:], list[k:]
		}
		select {
		case <-ctx.Done():
			return
		case <-f.come:
		case <-tick.C:
		}
	}
}

func (f *followers) due() (due []*follower, list []view.Follow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for one := range f.all {
		if one.ready {
			due = append(due, one)
			list = append(list, view.Follow{ID: one.id, Claim: one.claim, N: one.n})
		}
	}
	return due, list
}

// see looks once. While the database cannot be reached nobody is told anything; the next look comes.
func (f *followers) see(ctx context.Context, due []*follower, list []view.Follow) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seen, err := f.look(ctx, list)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, one := range due {
		one.ready = false
		one.seen <- seen[i] // it has room: one is given at a time
	}
}
