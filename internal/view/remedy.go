package view

import "strings"

// Words is a part of a remedy: words, or a command that can be typed as it stands.
type Words struct {
	Text string
	Code bool
}

// RemedyParts are the parts of what explain_job() and problems() say is to be done: commands stand in backticks, as in Markdown; in more
// than one where a name has some.
func RemedyParts(remedy string) (parts []Words) {
	add := func(text string, code bool) {
		if text != "" {
			parts = append(parts, Words{text, code})
		}
	}
	at := 0 // what is in front of it is in parts
	for from := 0; ; {
		open := strings.IndexByte(remedy[from:], '`')
		if open < 0 {
			break
		}
		open += from
		n := ticks(remedy[open:])
		end := closing(remedy[open+n:], n)
		if end < 0 { // as it stands
			from = open + n
			continue
		}
		add(remedy[at:open], false)
		add(remedy[open+n:open+n+end], true)
		from = open + n + end + n
		at = from
	}
	add(remedy[at:], false)
	return parts
}

// PlainRemedy is a remedy for a terminal: without the backticks around commands.
func PlainRemedy(remedy string) string {
	var b strings.Builder
	for _, p := range RemedyParts(remedy) {
		b.WriteString(p.Text)
	}
	return b.String()
}

// ticks counts the backticks at the beginning.
func ticks(text string) int { return len(text) - len(strings.TrimLeft(text, "`")) }

// closing is where exactly n backticks are; -1: nowhere.
func closing(text string, n int) int {
	for at := 0; ; {
		i := strings.IndexByte(text[at:], '`')
		if i < 0 {
			return -1
		}
		at += i
		m := ticks(text[at:])
		if m == n {
			return at
		}
		at += m
	}
}
