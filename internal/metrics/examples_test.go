package metrics_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/metrics"
	"github.com/offstage-dev/offstage/worker"
)

// exported are the names, with those of the labels, that a worker and the database export.
func exported(t *testing.T, s *stage) map[string][]string {
	t.Helper()
	r, database := metrics.NewRegistry(), metrics.NewRegistry()
	m := metrics.NewWorker(r)
	m.Settled([]worker.Settled{{Task: "t", Outcome: offstage.OutcomeSucceeded, Started: true}})
	m.Follow(r, func() worker.Status { return worker.Status{} })
	s.add(t, "t")
	execute(t, s, `insert into offstage_private.schedule (name, source, task, expression, zone, jitter, overlap, known_at, due_at, updated_at, last_tick)
		values ('s', 'database', 't', '@daily', 'UTC', '0', 'allow', now(), now(), now(), now())`)
	metrics.NewDatabase(database, s.pool, "offstage", metrics.DatabaseOptions{Totals: true})
	execute(t, s, `select offstage_private.count_ended(now(), '{1}', '{null}', '{succeeded}')`)
	names := map[string][]string{}
	for _, g := range []prometheus.Gatherer{r, database} {
		families, err := g.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			labels := []string{"instance", "job"} // Prometheus adds these
			for _, m := range f.Metric {
				for _, l := range m.Label {
					labels = append(labels, l.GetName())
				}
			}
			all := []string{f.GetName()}
			if f.GetType().String() == "HISTOGRAM" {
				all = []string{f.GetName() + "_bucket", f.GetName() + "_sum", f.GetName() + "_count"}
				labels = append(labels, "le")
			}
			for _, name := range all {
				names[name] = append(names[name], labels...)
			}
		}
	}
	return names
}

func execute(t *testing.T, s *stage, sql string) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

var (
	metricName = regexp.MustCompile(`\b(offstage|process|go)_[a-z_]+`)
	selector   = regexp.MustCompile(`\b((?:offstage|process|go)_[a-z_]+)\{([^}]*)\}`)
	labelName  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!=|=)`)
)

// use is a metric that an expression asks for, with what is chosen of it.
type use struct{ name, labels string }

func told(expr string) (all []use) {
	for _, at := range metricName.FindAllStringIndex(expr, -1) {
		u := use{name: expr[at[0]:at[1]]}
		if rest := expr[at[1]:]; strings.HasPrefix(rest, "{") {
			u.labels, _, _ = strings.Cut(rest, "}")
		}
		all = append(all, u)
	}
	return all
}

// both says that workers and the database tell a metric: some series of it have a source, some have none. Each has an instance.
func both(labels []string) bool {
	n := map[string]int{}
	for _, l := range labels {
		n[l]++
	}
	return n["source"] > 0 && n["instance"] > 1
}

// What the dashboard and the alerts ask for is what /metrics has, and the dashboard shows all that is ours.
func TestExamples(t *testing.T) {
	s := newStage(t)
	names := exported(t, s)
	dir := filepath.Join("..", "..", "examples", "deploy")

	text, err := os.ReadFile(filepath.Join(dir, "grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var exprs []string
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: %+v", p.ID, p.Title, p.GridPos)
		}
		ids[p.ID] = true
		for _, x := range p.Targets {
			exprs = append(exprs, x.Expr)
		}
	}
	shown := strings.Join(exprs, "\n")
	for name := range names {
		of := strings.NewReplacer("_bucket", "", "_sum", "", "_count", "").Replace(name)
		if strings.HasPrefix(name, "offstage_") && !strings.Contains(shown, of) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}

	alerts, err := os.ReadFile(filepath.Join(dir, "prometheus", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, expr := range append(exprs, strings.Split(string(alerts), "- alert:")...) {
		for _, name := range metricName.FindAllString(expr, -1) {
			if names[name] == nil {
				t.Errorf("nothing exports %s: %s", name, expr)
			}
		}
		for _, m := range selector.FindAllStringSubmatch(expr, -1) {
			for _, label := range labelName.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(names[m[1]], label[1]) {
					t.Errorf("%s has no label %s: %s", m[1], label[1], expr)
				}
			}
		}
		for _, use := range told(expr) {
			if both(names[use.name]) && !strings.Contains(use.labels, "source") && !strings.Contains(expr, "source)") && !strings.Contains(expr, "absent("+use.name) {
				t.Errorf("%s is told by workers and by the database, and is added up here: %s", use.name, expr)
			}
		}
		if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
			t.Errorf("brackets: %s", expr)
		}
	}
	// docs/deploy.md explains each.
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "deploy.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		of := strings.NewReplacer("_bucket", "", "_sum", "", "_count", "").Replace(name)
		if strings.HasPrefix(name, "offstage_") && !strings.Contains(string(doc), "`"+of) {
			t.Errorf("docs/deploy.md does not explain %s", of)
		}
	}
}
