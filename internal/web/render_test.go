package web

import "testing"

func TestSentence(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "",
		" a job waits ":        "A job waits.",
		"Is it there?":         "Is it there?",
		"écrit ailleurs":       "Écrit ailleurs.",
		"ошибка":               "Ошибка.",
		"لا يوجد":              "لا يوجد.",
		"3 jobs wait":          "3 jobs wait.",
		"it goes on…":          "It goes on…",
		"'x' is not known: 日本": "'x' is not known: 日本.",
	} {
		if got := sentence(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
