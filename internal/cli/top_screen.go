package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen is a terminal that is ours as a whole for a while: keys come at once, and what was on it comes back in the end.
type screen struct {
	out     io.Writer
	file    *os.File // nil: not a real one
	keys    chan byte
	resized chan os.Signal
	restore func()
	closed  chan struct{}
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J" // another page, no cursor, empty
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

func (a *app) openScreen() (*screen, error) {
	s := &screen{out: a.Stdout, keys: make(chan byte), resized: make(chan os.Signal, 1), restore: func() {}, closed: make(chan struct{})}
	s.file, _ = a.Stdout.(*os.File)
	if in, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		state, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return nil, fmt.Errorf("use the terminal: %w", err)
		}
		s.restore = func() { _ = term.Restore(int(in.Fd()), state) }
	}
	watchSize(s.resized)
	fmt.Fprint(s.out, enterScreen)
	go func() { // ends with the program, or with what Stdin is: a read of a terminal cannot be ended
		b := make([]byte, 1)
		for {
			if n, err := a.Stdin.Read(b); n == 0 || err != nil {
				return
			}
			select {
			case s.keys <- b[0]:
			case <-s.closed:
				return
			}
		}
	}()
	return s, nil
}

func (s *screen) close() {
	close(s.closed)
	unwatchSize(s.resized)
	fmt.Fprint(s.out, leaveScreen)
	s.restore()
}

// size is 80 by 24 where nobody knows.
func (s *screen) size() (width, height int) {
	if s.file != nil {
		if w, h, err := term.GetSize(int(s.file.Fd())); err == nil && w > 0 && h > 0 {
			return w, h
		}
	}
	return 80, 24
}

// show puts a page on the screen in one write, so that it does not flicker.
func (s *screen) show(lines []string) {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	b.WriteString(strings.Join(lines, "\x1b[K\r\n"))
	b.WriteString("\x1b[K\x1b[J")
	_, _ = s.out.Write(b.Bytes())
}

// width is that of the terminal we write to, or so many where there is none.
func (a *app) width(otherwise int) int {
	if f, ok := a.Stdout.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return otherwise
}
