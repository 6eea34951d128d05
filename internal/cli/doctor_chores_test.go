package cli

import "testing"

func TestDoctorChores(t *testing.T) {
	s := newStage(t)
	s.found(s.visit(Done), "chores", "ok", "none has run yet")
	s.exec(`select offstage.register('host', 1, 'test', 1, '[{"name": "a"}]')`)
	s.exec(`update offstage_private.worker set beat_at = beat_at + interval '1 h'`) // it lives, however long this takes
	s.exec(`select offstage.chore_ran('promote', 1, '2 s')`)
	s.found(s.visit(Done), "chores", "ok", "promote ")
	s.exec(`select offstage.chore_ran('tidy', 1, '1 min', error => 'permission denied')`)
	s.found(s.visit(Done), "chores", "warn", "permission denied")
	s.exec(`select offstage.chore_ran('tidy', 1, '1 min')`)
	s.found(s.visit(Done), "chores", "ok", "tidy ")
	s.exec(`update offstage_private.chore set ran_at = ran_at - interval '10 s' where name = 'promote'`)
	s.found(s.visit(Done), "chores", "ok", "promote 1")
	s.exec(`update offstage_private.chore set ran_at = ran_at - interval '3 h' where name = 'promote'`)
	s.found(s.visit(Done), "chores", "ok", "promote 3 h ago") // the only worker has just been started
	s.exec(`update offstage_private.worker set started_at = started_at - interval '1 h'`)
	s.found(s.visit(Done), "chores", "warn", "promote is to run every 2.0 s, and last ran: 3 h ago")
	s.exec(`update offstage_private.worker set beat_at = beat_at - interval '2 h'`)
	if f := s.visit(Done)["chores"]; f.Status != "ok" {
		t.Errorf("nobody is there: %+v", f)
	}
}

// What takes more than it needs is told, and who takes it away.
func TestDoctorIndexes(t *testing.T) {
	s := newStage(t)
	// The size of an index is what its file has: 70 MB of nothing, as its pages are hardly filled.
	s.exec(`alter index offstage_private.scheduled_pkey set (fillfactor = 10)`)
	s.exec(`insert into offstage_private.scheduled (run_at, job_id, lane_id, priority) select now() + n * interval '1 s', n, 1, 0 from generate_series(1, 250000) n`)
	s.exec(`alter index offstage_private.scheduled_pkey reset (fillfactor)`)
	s.exec(`delete from offstage_private.scheduled where job_id % 100 > 0`)
	s.exec(`vacuum analyze offstage_private.scheduled`)
	s.found(s.visit(Done), "indexes", "warn", "offstage_private.scheduled_pkey takes ")
	s.exec(`reindex index offstage_private.scheduled_pkey`)
	s.found(s.visit(Done), "indexes", "ok", "")
}
