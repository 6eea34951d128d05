package cli

import "testing"

// TestDateStyle: whatever dates look like for the role, the commands read them.
func TestDateStyle(t *testing.T) {
	s := newStage(t)
	s.fail(s.add("t", nil), "no")
	s.env["DATABASE_URL"] += "&options=-c%20datestyle%3DGerman"
	for _, command := range [][]string{{"jobs"}, {"jobs", "get", "1"}, {"jobs", "history"}, {"audit"}} {
		s.want(Done, command...)
	}
}
