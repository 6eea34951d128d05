package web

// diffLine is a line of a difference.
type diffLine struct {
	Op   string // same, gone or new; skip for lines left out
	Text string
	N    int // of skip: how many
}

// Word is what a line is called by those who cannot see colours.
func (l diffLine) Word() string {
	return map[string]string{"gone": "removed", "new": "added", "same": "unchanged", "skip": "left out"}[l.Op]
}

// Mark is what stands before a line.
func (l diffLine) Mark() string {
	return map[string]string{"gone": "−", "new": "+"}[l.Op]
}

// diffBudget bounds the table of the longest common subsequence; above it the changed part is shown as gone and new as a whole.
const diffBudget = 4 << 20

// diffLines is the shortest way from one text to the other, with three unchanged lines around what has changed.
func diffLines(from, to []string) []diffLine {
	var head, tail int
	for head < len(from) && head < len(to) && from[head] == to[head] {
		head++
	}
	for tail < len(from)-head && tail < len(to)-head && from[len(from)-1-tail] == to[len(to)-1-tail] {
		tail++
	}
	var all []diffLine
	add := func(op string, lines ...string) {
		for _, l := range lines {
			all = append(all, diffLine{Op: op, Text: l})
		}
	}
	add("same", from[:head]...)
	a, b := from[head:len(from)-tail], to[head:len(to)-tail]
	if len(a)*len(b) > diffBudget {
		add("gone", a...)
		add("new", b...)
	} else {
		// longest[i][j] is how many lines a[i:] and b[j:] have in common.
		width := len(b) + 1
		longest := make([]int32, (len(a)+1)*width)
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if a[i] == b[j] {
					longest[i*width+j] = longest[(i+1)*width+j+1] + 1
				} else {
					longest[i*width+j] = max(longest[(i+1)*width+j], longest[i*width+j+1])
				}
			}
		}
		i, j := 0, 0
		for i < len(a) || j < len(b) {
			switch {
			case i < len(a) && j < len(b) && a[i] == b[j]:
				add("same", a[i])
				i, j = i+1, j+1
			case j == len(b) || i < len(a) && longest[(i+1)*width+j] >= longest[i*width+j+1]:
				add("gone", a[i])
				i++
			default:
				add("new", b[j])
				j++
			}
		}
	}
	add("same", from[len(from)-tail:]...)
	return around(all, 3)
}

// around leaves out unchanged lines that are further than n lines from a change.
func around(all []diffLine, n int) []diffLine {
	keep := make([]bool, len(all))
	last := -n - 1
	for i, l := range all {
		if l.Op != "same" {
			last = i
		}
		keep[i] = i-last <= n
	}
	next := len(all) + n + 1
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Op != "same" {
			next = i
		}
		keep[i] = keep[i] || next-i <= n
	}
	var out []diffLine
	for i, l := range all {
		switch {
		case keep[i]:
			out = append(out, l)
		case len(out) > 0 && out[len(out)-1].Op == "skip":
			out[len(out)-1].N++
		default:
			out = append(out, diffLine{Op: "skip", N: 1})
		}
	}
	return out
}

// changed counts the lines of a difference that are not the same.
func changed(lines []diffLine) (n int) {
	for _, l := range lines {
		if l.Op == "gone" || l.Op == "new" {
			n++
		}
	}
	return n
}
