package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// frame is one picture of top, as lines. No height: as long as it is.
type frame struct {
	paint         painter
	width, height int
	sorting       int
	before        *snapshot // for rates per second
	live          bool      // somebody can press keys

	lines []string
}

// sortings are the columns by which tasks can be sorted; each puts the larger ones first, but the name.
var sortings = []struct {
	name string
	less func(a, b topTask) int
}{
	{"done", func(a, b topTask) int { return cmp.Compare(b.Done+b.Failures, a.Done+a.Failures) }},
	{"failed", func(a, b topTask) int { return cmp.Compare(b.Failures, a.Failures) }},
	{"waiting", func(a, b topTask) int { return cmp.Compare(b.Waiting, a.Waiting) }},
	{"wait", func(a, b topTask) int { return cmp.Compare(orZero(b.WaitP95), orZero(a.WaitP95)) }},
	{"run", func(a, b topTask) int { return cmp.Compare(orZero(b.RunP95), orZero(a.RunP95)) }},
	{"name", func(a, b topTask) int { return cmp.Compare(a.Name, b.Name) }},
}

func orZero(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

// draw fills lines. The state is what there is to say about the look itself.
func (f *frame) draw(s *snapshot, place, state string) {
	f.width = max(f.width, 40)
	keys := ""
	if f.live {
		keys = "q quit  p pause  s sort"
	}
	f.title(place, keys)
	if strings.HasPrefix(state, "NO ") {
		f.add(f.paint.paint(red, f.cut(state, f.width)))
	} else if s != nil {
		f.spread(s.At.Local().Format("15:04:05")+"  "+state, "", dim)
	}
	if s == nil {
		f.add("looking …")
		return
	}
	f.header(s)
	f.add("")
	f.tables(s)
	if f.height > 0 && len(f.lines) > f.height {
		f.lines = f.lines[:f.height]
	}
}

func (f *frame) add(line string) { f.lines = append(f.lines, line) }

// cut makes a text fit.
func (f *frame) cut(text string, n int) string { return short(clean(text, false), max(n, 1)) }

func (f *frame) title(place, keys string) {
	left := f.cut("offstage top  "+place, f.width-utf8.RuneCountInString(keys)-2)
	f.spread(left, keys, bold)
}

// spread puts one text at the left and one at the right.
func (f *frame) spread(left, right, colour string) {
	left = f.cut(left, f.width)
	gap := max(f.width-utf8.RuneCountInString(left)-utf8.RuneCountInString(right), 1)
	if right == "" {
		gap = 0
	}
	f.add(f.paint.paint(colour, left) + strings.Repeat(" ", gap) + f.paint.paint(dim, right))
}

func (f *frame) header(s *snapshot) {
	failures := fmt.Sprintf("failed %s/s  %s/min", amount(s.perSecond(f.before, false)), amount(s.Failures))
	if s.Failures > 0 {
		failures = f.paint.paint(red, failures)
	}
	f.add(fmt.Sprintf("ended    done %s/s  %s/min   %s", amount(s.perSecond(f.before, true)), amount(s.Done), failures))
	oldest := ""
	if s.Oldest != nil {
		oldest = "   oldest " + span(time.Duration(max(*s.Oldest, 0)*float64(time.Second)))
	}
	f.add(fmt.Sprintf("jobs     waiting %s%s", capped(s.Waiting, 10000), oldest))
	f.add(fmt.Sprintf("         running %s   scheduled %s   parked %s   failed %s", capped(s.Running, 10000), capped(s.Scheduled, 10000), capped(s.Parked, 10000), capped(s.Failed, 10000)))
	workers := fmt.Sprintf("workers  %d with %s", s.Workers, plural(s.Slots, "slot"))
	if s.Workers == 0 {
		workers = f.paint.paint(yellow, "workers  none")
	}
	f.add(workers)
}

// tables shows tasks, and below them queues, which get a third of the room at most when it is scarce.
func (f *frame) tables(s *snapshot) {
	tasks := slices.Clone(s.Tasks)
	slices.SortStableFunc(tasks, sortings[f.sorting].less)
	queues := slices.DeleteFunc(slices.Clone(s.Queues), func(q topQue) bool { // nothing goes on there
		return q.Running+q.Parked == 0 && q.Done+q.Failures == 0 && !q.Paused
	})
	slices.SortStableFunc(queues, func(a, b topQue) int {
		return cmp.Or(cmp.Compare(b.Parked+b.Running, a.Parked+a.Running), cmp.Compare(b.Done, a.Done))
	})
	roomTasks, roomQueues := len(tasks), len(queues)
	if f.height > 0 {
		room := f.height - len(f.lines) - 1 // its head
		if len(queues) > 0 {
			roomQueues = min(len(queues), max(room/3-2, 1, room-2-len(tasks)))
			room -= roomQueues + 2
		}
		roomTasks = min(len(tasks), max(room, 0))
	}
	head := func(name string) string {
		if f.live && sortings[f.sorting].name == name {
			return "*"
		}
		return ""
	}
	rows := [][]string{{
		"TASK" + head("name"), head("done") + "DONE/MIN", head("failed") + "FAILED/MIN", head("waiting") + "WAITING",
		head("wait") + "WAIT 50%", "95%", head("run") + "RUN 50%", "95%",
	}}
	for _, t := range tasks[:roomTasks] {
		rows = append(rows, []string{t.Name, amount(t.Done), amount(t.Failures), capped(t.Waiting, 1000), brief(t.WaitP50), brief(t.WaitP95), brief(t.RunP50), brief(t.RunP95)})
	}
	f.grid(rows, len(tasks)-roomTasks)
	if len(queues) == 0 {
		return
	}
	f.add("")
	rows = [][]string{{"QUEUE", "DONE/MIN", "FAILED/MIN", "RUNNING", "LIMIT", "PARKED"}}
	for _, q := range queues[:roomQueues] {
		limit := fmt.Sprint(q.Limit)
		if q.Paused {
			limit = "paused"
		}
		rows = append(rows, []string{q.Name, amount(q.Done), amount(q.Failures), fmt.Sprint(q.Running), limit, capped(q.Parked, 1000)})
	}
	f.grid(rows, len(queues)-roomQueues)
}

// grid writes rows in columns, the first one as wide as it may be. more are those that there is no room for.
func (f *frame) grid(rows [][]string, more int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	rest, columns := 0, 1 // as many as fit
	for columns < len(widths) && rest+widths[columns]+2+8 <= f.width {
		rest += widths[columns] + 2
		columns++
	}
	widths[0] = max(min(widths[0], f.width-rest), 8)
	if more > 0 {
		rows[0][0] += fmt.Sprintf(" (+%d)", more)
		widths[0] = max(widths[0], min(utf8.RuneCountInString(rows[0][0]), f.width-rest))
	}
	for n, row := range rows {
		line := f.cut(row[0], widths[0])
		line += strings.Repeat(" ", widths[0]-utf8.RuneCountInString(line))
		for i, cell := range row[1:columns] {
			line += fmt.Sprintf("  %*s", widths[i+1], cell)
		}
		line = strings.TrimRight(line, " ")
		if n == 0 {
			line = f.paint.paint(bold, line)
		}
		f.add(line)
	}
}

// amount is a number for people: three digits are enough.
func amount(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 9.95:
		return fmt.Sprintf("%.1f", v)
	case v < 9999.5:
		return fmt.Sprintf("%.0f", v)
	case v < 999.5e3:
		return fmt.Sprintf("%.0fk", v/1e3)
	}
	return fmt.Sprintf("%.1fM", v/1e6)
}

// capped is a count that stops at most.
func capped(n, most int) string {
	if n >= most {
		return fmt.Sprintf("%d+", most)
	}
	return fmt.Sprint(n)
}

func brief(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return span(time.Duration(*seconds * float64(time.Second)))
}
