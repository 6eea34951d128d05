package worker

import (
	"cmp"
	"time"

	"github.com/offstage-dev/offstage/internal/store"
)

const (
	commitWithin = 20 * time.Millisecond // most of those who add: until then, jobs come in front of those that became due a little later
	maxMarks     = 512
)

type markKey struct {
	lane     int32
	priority int16
}

// marks are how far looks have come, in each lane and at each priority: there the next one begins, and does not step over the dead index entries of what
// was claimed. They are under session.mu.
type marks struct {
	firm  map[markKey]store.Mark
	young map[markKey]store.Mark // become firm after commitWithin
}

func newMarks() marks {
	return marks{map[markKey]store.Mark{}, map[markKey]store.Mark{}}
}

func (m *marks) clear() {
	clear(m.firm)
	clear(m.young)
}

// list is what a claim is told.
func (m *marks) list() (all []store.Mark) {
	for _, mark := range m.firm {
		all = append(all, mark)
	}
	return all
}

// learn takes what a look brought, at a time of the database's clock. Its jobs are in order.
func (m *marks) learn(look *store.Look, at time.Time) {
	old := at.Add(-commitWithin)
	for key, mark := range m.young {
		if !mark.RunAt.After(old) {
			delete(m.young, key)
			m.set(mark, old)
		}
	}
	for i, c := range look.Jobs {
		if next := i + 1; next < len(look.Jobs) && look.Jobs[next].Lane == c.Lane && look.Jobs[next].Priority == c.Priority {
			continue // the last one of each counts
		}
		m.set(store.Mark{Lane: c.Lane, Priority: c.Priority, RunAt: c.RunAt, JobID: c.JobID}, old)
	}
	for _, mark := range look.Marks {
		m.set(mark, old)
	}
	for _, rest := range look.Rests {
		rest.JobID--
		key := markKey{rest.Lane, rest.Priority}
		for _, known := range []map[markKey]store.Mark{m.firm, m.young} {
			if before(rest, known[key]) {
				known[key] = rest
			}
		}
	}
	if len(m.firm)+len(m.young) > maxMarks {
		m.clear()
	}
}

// set moves the mark of its lane and priority on to this one: at once if it is old.
func (m *marks) set(mark store.Mark, old time.Time) {
	key := markKey{mark.Lane, mark.Priority}
	if mark.RunAt.After(old) {
		if _, ok := m.young[key]; !ok { // or that one has its turn first
			m.young[key] = mark
		}
	} else if known, ok := m.firm[key]; !ok || before(known, mark) {
		m.firm[key] = mark
	}
}

func before(a, b store.Mark) bool {
	return cmp.Or(a.RunAt.Compare(b.RunAt), cmp.Compare(a.JobID, b.JobID)) < 0
}
