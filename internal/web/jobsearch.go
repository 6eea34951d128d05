package web

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/offstage-dev/offstage/internal/view"
)

// searchTerms is what the search box says when it is not understood.
const searchTerms = `task: queue: key: flag: state: worker: error: added: (or after:, before:) fingerprint: payload.path: and #123 for a job`

// search understands what people write into the search box: task:hello error:"timed out" payload.user.id:7. It adds to the
// filter. A number alone, with # or without, is the id of a job: then id is its text, whatever its size.
func search(f view.JobFilter, query string) (out view.JobFilter, id string, err error) {
	words, err := searchWords(query)
	if err != nil {
		return f, "", err
	}
	v := filterValues(f)
	var free []string
	for _, w := range words {
		if w.name == "" {
			digits := strings.TrimPrefix(w.value, "#")
			if digits != "" && strings.Trim(digits, "0123456789") == "" && len(words) == 1 && !w.quoted {
				return f, digits, nil
			}
			if strings.HasPrefix(w.value, "#") && !w.quoted {
				return f, "", fmt.Errorf("%s names one job: write it alone", w.value)
			}
			free = append(free, w.value)
			continue
		}
		switch w.name {
		case "id", "job":
			if len(words) > 1 {
				return f, "", fmt.Errorf("%s:%s names one job: write it alone", w.name, w.value)
			}
			return f, strings.TrimPrefix(w.value, "#"), nil
		case "state", "task", "queue", "key", "flag", "worker", "error", "fingerprint":
			v.Set(w.name, w.value)
		case "added", "after", "added_after":
			v.Set("added_after", strings.TrimPrefix(strings.TrimPrefix(w.value, "<"), ">"))
		case "before", "added_before":
			v.Set("added_before", w.value)
		default:
			path, ok := strings.CutPrefix(w.name, "payload.")
			if !ok || path == "" {
				return f, "", fmt.Errorf("%q is not something to search by; use %s", w.name+":", searchTerms)
			}
			v.Set("payload_path", path)
			v.Set("payload_value", w.value)
		}
	}
	if len(free) > 0 { // words alone are what people remember of an error
		v.Set("error", strings.Join(free, " "))
	}
	out, err = readFilter(v)
	return out, "", err
}

type searchWord struct {
	name, value string
	quoted      bool
}

// searchWords takes a query apart. A value may be quoted to hold blanks; \" and \\ stand for themselves in it.
func searchWords(query string) (words []searchWord, err error) {
	rest := []rune(query)
	for {
		for len(rest) > 0 && unicode.IsSpace(rest[0]) {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return words, nil
		}
		var w searchWord
		var text []rune
		open := false
		i := 0
	word:
		for ; i < len(rest); i++ {
			switch c := rest[i]; {
			case open && c == '\\' && i+1 < len(rest) && (rest[i+1] == '"' || rest[i+1] == '\\'):
				i++
				text = append(text, rest[i])
			case c == '"' && (open || len(text) == 0):
				open, w.quoted = !open, true
			case open:
				text = append(text, c)
			case unicode.IsSpace(c):
				break word
			case c == ':' && w.name == "" && len(text) > 0 && !w.quoted && isName(string(text)) && !strings.HasPrefix(string(rest[i+1:]), "//"):
				w.name, text = string(text), nil
			default:
				text = append(text, c)
			}
		}
		if open {
			return nil, fmt.Errorf(`a quote is open: %s`, string(rest))
		}
		rest = rest[i:]
		w.value = string(text)
		if w.name != "" && w.value == "" && !strings.HasPrefix(w.name, "payload.") {
			return nil, fmt.Errorf("%s: has no value", w.name)
		}
		words = append(words, w)
	}
}

// isName tells the name of a term from other text that holds a colon, such as 127.0.0.1:5432 in an error.
func isName(text string) bool {
	return strings.HasPrefix(text, "payload.") || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") == ""
}
