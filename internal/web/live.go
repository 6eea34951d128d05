package web

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/offstage-dev/offstage/internal/web/guard"
)

// live shares what pages read. A topic is a kind of page with its parameters (jobs?state=failed); whoever wants to see it gets
// what was read within the last period, and who comes first after that reads anew, for all. So fifty tabs cost the database
// what one does, and without tabs nothing is read: there is no sampler that could be forgotten. What takes long to read is read
// more rarely, see rest.
type live struct {
	period time.Duration
	now    func() time.Time

	// These wait for the client's turn to read, and answer the context for reading: view.DB.Enter and EnterStream.
	enter       func(context.Context) (context.Context, func(), error)
	enterStream func(context.Context, <-chan struct{}) (context.Context, func(), error)

	key   []byte        // of this process, see version
	slots chan struct{} // streams read by so many at a time, see follow

	mu     sync.Mutex
	reads  map[string]reader
	topics map[string]*topic
}

// reader reads a topic with its parameters. What it answers must not be changed by anybody, and encodes to JSON: when that
// differs, the page has changed.
type reader func(ctx context.Context, args url.Values) (any, error)

type topic struct {
	followed chan struct{} // the same for streams, before they wait for their slots and for turn
	turn     chan struct{} // holds one token: whoever has it may read, and owns what follows
	sample
}

// sample is what was read, at some time.
type sample struct {
	at      time.Time
	took    time.Duration
	value   any
	err     error
	version string
}

// share and slowest are how rarely a topic is read: it keeps a connection busy for a three-hundredth of the time, unless its reading takes
// more than a three-hundredth of five periods.
const (
	share   = 300
	slowest = 5
)

// elsewhereKey is where a reader that reads other topics, too, notes how long those took: they have rests of their own. Topics that are read so read
// none themselves, so that nobody waits in a circle.
type elsewhereKey struct{}

// rest is for how long what was read at a time stays good enough for all.
func (l *live) rest(s sample) time.Duration {
	return min(max(l.period, share*s.took), slowest*l.period)
}

// recheck is how often streams look whether who follows them still may.
const recheck = 20 * time.Second

// maxTopics is how many topics are kept. Filters make topics, so there is no end of them.
const maxTopics = 500

func newLive(period time.Duration) *live {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return &live{
		period: period, now: time.Now, key: key, slots: make(chan struct{}, 2), reads: map[string]reader{}, topics: map[string]*topic{},
		enter: func(ctx context.Context) (context.Context, func(), error) { return ctx, func() {}, nil },
		enterStream: func(ctx context.Context, _ <-chan struct{}) (context.Context, func(), error) {
			return ctx, func() {}, nil
		},
	}
}

// register is called while the routes are made.
func (l *live) register(name string, read reader) { l.reads[name] = read }

// get answers what a topic is now, or was when it was last read: see rest.
func (l *live) get(ctx context.Context, name string, args url.Values) (sample, error) {
	read := l.reads[name]
	if read == nil {
		return sample{}, fmt.Errorf("web: there is no topic %q", name)
	}
	if elsewhere, ok := ctx.Value(elsewhereKey{}).(*time.Duration); ok {
		defer func(began time.Time) { *elsewhere += l.now().Sub(began) }(l.now())
	}
	ctx, leave, err := l.enter(ctx) // first, because others may wait for the topic
	if err != nil {
		return sample{}, err
	}
	defer leave()
	t := l.topic(name + "?" + args.Encode())
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	defer func() { <-t.turn }()
	if now := l.now(); t.at.IsZero() || now.Sub(t.at) >= l.rest(t.sample) {
		// The others must get it, too, when the one who reads has gone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		var elsewhere time.Duration
		value, err := read(context.WithValue(ctx, elsewhereKey{}, &elsewhere), args)
		t.sample = sample{at: now, took: l.now().Sub(now) - elsewhere, value: value, err: err, version: l.version(value, err)}
	}
	return t.sample, t.err
}

// follow is get for streams. However many topics they follow, they leave half of the connections to those who wait for a page.
func (l *live) follow(ctx context.Context, stopping <-chan struct{}, name string, args url.Values) (sample, error) {
	ctx, leave, err := l.enterStream(ctx, stopping)
	if err != nil {
		return sample{}, err
	}
	defer leave()
	t := l.topic(name + "?" + args.Encode())
	for _, turn := range []chan struct{}{t.followed, l.slots} { // those of one topic wait for the first of them
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return sample{}, ctx.Err()
		case <-stopping:
			return sample{}, context.Canceled
		}
	}
	return l.get(ctx, name, args)
}

// version tells whether a value is another one. It is keyed, because the value holds what nobody is shown: whoever knows the rest of it
// could find a short secret out by trying.
func (l *live) version(value any, err error) string {
	if err != nil {
		return "error"
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "error"
	}
	mac := hmac.New(sha256.New, l.key)
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

func (l *live) topic(key string) *topic {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.topics[key]
	if t == nil {
		if len(l.topics) >= maxTopics { // those that are looked at come back at once
			clear(l.topics)
		}
		t = &topic{followed: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
		l.topics[key] = t
	}
	return t
}

// forget makes everybody read anew: somebody has changed something, and wants to see it.
func (l *live) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.topics)
}

// read is what pages call for what they show: see live. The type must be what the topic's reader answers.
func read[T any](ctx context.Context, s *Server, name string, args url.Values) (T, error) {
	got, err := s.live.get(ctx, name, args)
	if err != nil {
		var none T
		return none, err
	}
	return got.value.(T), nil
}

// stream tells a page when what it shows has changed, as server-sent events whose data is the version. The page then asks for
// itself again, as a fragment. A comment every 15 seconds tells proxies, and the page, that the stream lives.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	name, args := r.PathValue("topic"), r.URL.Query()
	if s.live.reads[name] == nil {
		s.notFound(w, r)
		return
	}
	flush := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		return
	}
	fmt.Fprint(w, "retry: 2000\n\n")
	said, spoke, asked := "", s.live.now(), s.live.now()
	for {
		if now := s.live.now(); now.Sub(asked) >= recheck {
			if asked = now; !guard.Still(r.Context()) {
				return // the page finds out why
			}
		}
		got, err := s.live.follow(r.Context(), s.stopping, name, args)
		event := ""
		switch now := s.live.now(); {
		case r.Context().Err() != nil, errors.Is(err, context.Canceled):
			return
		case err != nil && said != "gone":
			said, event = "gone", "event: gone\ndata: the database does not answer\n\n"
		case err == nil && said != got.version:
			said, event = got.version, "event: changed\ndata: "+got.version+"\n\n"
		case now.Sub(spoke) >= 15*time.Second:
			event = ": \n\n"
		}
		if event != "" {
			spoke = s.live.now()
			if _, err := fmt.Fprint(w, event); err != nil || flush.Flush() != nil {
				return
			}
		}
		wait := s.live.period
		if !got.at.IsZero() {
			wait = max(s.live.period/100, s.live.rest(got)-s.live.now().Sub(got.at))
		}
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return
		case <-s.stopping:
			return
		}
	}
}
