package pgtest

import (
	"sync"
	"testing"
)

// Template is a database that takes a while to make, and of which several tests want one. The first that asks has it made.
type Template struct {
	// Make fills an empty database. When it returns, nobody is connected to it any more.
	Make func(t testing.TB, db *DB)

	mu   sync.Mutex // guards name
	name string
}

// New returns a copy.
func (m *Template) New(t testing.TB) *DB {
	t.Helper()
	c := clusterFor(t, nil)
	return c.create(t, m.made(t, c))
}

// made is the name of the database. A test that fails to make it leaves the attempt to the next.
func (m *Template) made(t testing.TB, c *cluster) string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.name == "" {
		db := c.keep(t, "template1")
		m.Make(t, db)
		m.name = db.Name
	}
	return m.name
}
