package tasks

import "strings"

// maxName is how long a task's name may be: the schema holds no longer ones, so no job could name it.
const maxName = 128

// parseName splits a file's name at its first dot: "report.test.js" is "report" and ".test.js". Both sides of every
// dot must be words (ASCII letters, digits, "_" and "-"); ok is false for other names, hidden files among them.
func parseName(name string) (base, ext string, ok bool) {
	for part := range strings.SplitSeq(name, ".") {
		if !isWord(part) {
			return "", "", false
		}
	}
	base, _, _ = strings.Cut(name, ".")
	return base, name[len(base):], true
}

// isWord says whether s can be a directory on the way to a task, or a part of a file's name.
func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return s != ""
}
