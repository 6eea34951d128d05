package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// filled refuses flags that were given with nothing in them: where a script has not set its $KEY, --key "$KEY" must not
// do what leaving it out does.
func filled(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return fmt.Errorf("--%s is empty; give it a value, or leave it out", name)
		}
	}
	return nil
}

// between refuses a number that the database would.
func between(cmd *cobra.Command, name string, n, least, most int) error {
	if cmd.Flags().Changed(name) && (n < least || n > most) {
		return fmt.Errorf("--%s is %d; use %d to %d", name, n, least, most)
	}
	return nil
}

// plainly says what is wrong with a number without Go's words for it.
func plainly(_ *cobra.Command, err error) error {
	var number *strconv.NumError
	if !errors.As(err, &number) {
		return err
	}
	why := "write a whole number"
	switch {
	case errors.Is(number.Err, strconv.ErrRange):
		why = "the number is too large"
	case number.Func == "ParseBool":
		why = "write true or false"
	}
	return fmt.Errorf("%s: %s", strings.TrimSuffix(err.Error(), ": "+number.Error()), why)
}

// durationFlag is a Go duration that may begin with days: 2d, 1d12h, 90s.
type durationFlag time.Duration

func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

func (d *durationFlag) Type() string { return "duration" }

func (d *durationFlag) Set(text string) error {
	v, err := parseDuration(text)
	if err == nil {
		*d = durationFlag(v)
	}
	return err
}

func parseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no duration; write a number with a unit: 500ms, 2s, 5m, 36h, 2d", text)
	var total time.Duration
	rest := text
	if days, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad
		}
		total, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 {
		return 0, bad
	}
	return total + d, nil
}

// pollFlag is a duration whose bare number means milliseconds, as in Graphile Worker.
type pollFlag time.Duration

func (d *pollFlag) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}
func (d *pollFlag) Type() string { return "ms|duration" }

func (d *pollFlag) Set(text string) error {
	v, err := time.Duration(0), error(nil)
	if n, bare := strconv.ParseUint(text, 10, 32); bare == nil {
		v = time.Duration(n) * time.Millisecond
	} else {
		v, err = parseDuration(text)
	}
	if err == nil && v < time.Millisecond {
		err = fmt.Errorf("%q is too short; at least 1 (millisecond) is needed", text)
	}
	if err == nil {
		*d = pollFlag(v)
	}
	return err
}
