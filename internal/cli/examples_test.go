package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commandsIn finds the command lines of the program in an example: what a container runs and asks, what systemd starts.
func commandsIn(t *testing.T, path, text string) (all [][]string) {
	t.Helper()
	const binary = "/usr/local/bin/offstage"
	list := regexp.MustCompile(`(?m)^\s*(?:ENTRYPOINT|(?:HEALTHCHECK .*)?CMD|args:|command:|test:) \[(.+)\]$`)
	for _, m := range list.FindAllStringSubmatch(text, -1) {
		var words []string
		for w := range strings.SplitSeq(m[1], ",") {
			words = append(words, strings.Trim(strings.TrimSpace(w), `"`))
		}
		switch {
		case words[0] == "CMD-SHELL": // of another program
			continue
		case words[0] == "CMD":
			words = words[1:]
		}
		if words[0] == binary {
			words = words[1:]
		}
		if len(words) > 0 {
			all = append(all, words)
		}
	}
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="+binary+" "); ok {
			all = append(all, strings.Fields(command))
		}
	}
	return all
}

// What the examples run, this program takes: commands, flags and their values, variables, paths, ports.
func TestDeployExamples(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, path := range glob(t, "*.go") {
		if !strings.HasSuffix(path, "_test.go") {
			source.WriteString(read(t, path))
		}
	}
	variable := regexp.MustCompile(`\bOFFSTAGE_[A-Z_]+`)
	probe := regexp.MustCompile(`httpGet: \{path: ([^,]+), port: ([^}]+)\}`)
	port := regexp.MustCompile(`\{name: ([^,]+), containerPort: (\d+)\}`)
	n := 0
	dir := filepath.Join("..", "..", "examples", "deploy")
	for _, path := range slices.Concat(glob(t, filepath.Join(dir, "docker", "D*")), glob(t, filepath.Join(dir, "docker", "*.yml")),
		glob(t, filepath.Join(dir, "kubernetes", "*.yaml")), glob(t, filepath.Join(dir, "systemd", "*.service"))) {
		text := read(t, path)
		for _, words := range commandsIn(t, path, text) {
			n++
			takes(t, path, words)
		}
		for _, name := range variable.FindAllString(text, -1) {
			if !strings.Contains(source.String(), `"`+name+`"`) {
				t.Errorf("%s: nothing reads %s", path, name)
			}
		}
		for _, m := range probe.FindAllStringSubmatch(text, -1) {
			if m[1] != "/livez" && m[1] != "/readyz" {
				t.Errorf("%s: there is no %s", path, m[1])
			}
			if !strings.Contains(text, "{name: "+m[2]+", containerPort:") {
				t.Errorf("%s: no port is called %s", path, m[2])
			}
		}
		for _, m := range port.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(text, `":`+m[2]+`"`) {
				t.Errorf("%s: nothing listens at the port %s, %s", path, m[1], m[2])
			}
		}
		if copies := regexp.MustCompile(`(?m)^COPY (?:[^-].*) \S+$`).FindAllString(text, -1); strings.HasSuffix(path, "Dockerfile") {
			for _, line := range copies {
				words := strings.Fields(line)
				for _, from := range words[1 : len(words)-1] {
					if _, err := os.Stat(filepath.Join("..", "..", from)); err != nil {
						t.Errorf("%s: %s: %v", path, line, err)
					}
				}
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d command lines were found", n)
	}
}

// takes parses a command line as far as possible without running it.
func takes(t *testing.T, path string, words []string) {
	t.Helper()
	root := (&app{}).root()
	command, rest, err := root.Find(words)
	if err == nil && command == root {
		t.Errorf("%s: there is no command %q", path, words)
		return
	}
	if err == nil {
		err = command.ParseFlags(rest)
	}
	if err == nil {
		err = command.ValidateArgs(command.Flags().Args())
	}
	if err != nil {
		t.Errorf("%s: offstage %s: %v", path, strings.Join(words, " "), err)
	}
}

// The commands that documents tell people to type have the flags that they name. What is left out (…) is not looked at.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	n := 0
	for _, path := range slices.Concat(glob(t, filepath.Join("..", "..", "*.md")), glob(t, filepath.Join("..", "..", "docs", "*.md"))) {
		shell := false
		for line := range strings.Lines(read(t, path)) {
			if strings.HasPrefix(line, "```") {
				shell = strings.HasPrefix(line, "```sh")
			}
			command, ok := strings.CutPrefix(strings.TrimSpace(line), "offstage ")
			if !shell || !ok {
				continue
			}
			words := plainWords(command)
			if len(words) == 0 || strings.Contains(command, "…") || strings.HasSuffix(command, `\`) {
				continue
			}
			n++
			root := (&app{}).root()
			found, rest, err := root.Find(words)
			if err == nil && found != root {
				err = found.ParseFlags(rest)
			}
			if err != nil || found == root && !strings.HasPrefix(words[0], "-") {
				t.Errorf("%s: offstage %s: %v", path, command, err)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d commands were found", n)
	}
}

// plainWords splits a line as a shell does, as far as documents need it: quotes, and where the command ends.
func plainWords(line string) (words []string) {
	word, quote, begun := "", rune(0), false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word += string(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case strings.ContainsRune("|;&<>", c), c == '#' && !begun && word == "":
			return words
		case c == ' ':
			if begun || word != "" {
				words = append(words, word)
			}
			word, begun = "", false
		default:
			word += string(c)
		}
	}
	if begun || word != "" {
		words = append(words, word)
	}
	return words
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil || len(all) == 0 {
		t.Fatalf("no files are %s (%v)", pattern, err)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
