package main

import (
	"slices"
	"testing"
	"time"
)

// chosen are the names of the scenarios to run.
func chosen(o options) (names []string) {
	for _, s := range o.run {
		names = append(names, s.name)
	}
	return names
}

// A goal names variants by their titles, and each goal's metric is one of the scenario's.
func TestGoalsNameWhatIsMeasured(t *testing.T) {
	two := field{ours: &ours{}, graphile: &graphile{label: "graphile-worker"}}
	all := two
	all.river, all.pgboss = &river{}, &pgboss{}
	for _, c := range []struct {
		parse func([]string) (options, error)
		args  []string
		makes []scenarioMaker
		f     field
	}{
		{parseOptions, nil, scenarios, two},
		{parseOptions, []string{"peers"}, peerScenarios, all},
		{parseBacklogs, nil, ugly, two},
		{parseBacklogs, []string{"--peer"}, ugly, two},
	} {
		o, err := c.parse(c.args)
		if err != nil {
			t.Fatal(err)
		}
		for _, maker := range c.makes {
			s := maker.make(o, c.f)
			if s.name != maker.name || len(s.goals) == 0 {
				t.Errorf("%q makes %q with %d goals", maker.name, s.name, len(s.goals))
			}
			titles := map[string]bool{}
			for _, v := range s.variants {
				if titles[v.title] || v.system == nil || v.run == nil {
					t.Errorf("%s: variant %q is there twice, or incomplete", s.name, v.title)
				}
				titles[v.title] = true
			}
			for _, g := range s.goals {
				if len(g.peers) == 0 && g.atBest == 0 || !slices.ContainsFunc(s.metrics, func(m metric) bool { return m.name == g.metric }) {
					t.Errorf("%s: goal %+v", s.name, g)
				}
				for _, title := range append([]string{g.ours}, g.peers...) {
					if !titles[title] {
						t.Errorf("%s: no variant %q", s.name, title)
					}
				}
			}
		}
	}
}

func TestParseOptionsOfPeers(t *testing.T) {
	o, err := parseOptions([]string{"peers", "--only", "half-load, work", "--rounds", "2"})
	if err != nil || !o.peers || !slices.Equal(chosen(o), []string{"work", "half-load"}) || !slices.Equal(o.peerProcesses, []int{1, 2, 4}) || o.rounds != 2 {
		t.Errorf("options = %+v, %v", o, err)
	}
	for _, args := range [][]string{{"peers", "--only", "history"}, {"peers", "--self"}, {"--only", "half-load"}, {"river"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestAlternate(t *testing.T) {
	if got := alternate([]int{1, 2, 3}, nil, []int{4}, []int{5, 6}); !slices.Equal(got, []int{1, 4, 5, 2, 6, 3}) {
		t.Errorf("alternate = %v", got)
	}
}

func TestRiverSettings(t *testing.T) {
	s, err := riverRead(riverBest)
	config := s.config()
	if err != nil || s.MaxWorkers != 1000 || config.FetchCooldown != time.Millisecond || config.FetchPollInterval != 10*time.Millisecond {
		t.Errorf("best: %+v, %v", s, err)
	}
	if s, err := riverRead(riverDefault); err != nil || s.config().FetchCooldown != 0 || s.config().FetchPollInterval != 0 {
		t.Errorf("defaults: %+v, %v", s, err)
	}
}
