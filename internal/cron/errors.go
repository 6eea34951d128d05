package cron

import "fmt"

// complaint is an error in the words of Graphile Worker, which begin with a capital letter.
type complaint string

func (c complaint) Error() string { return string(c) }

func failf(format string, args ...any) error { return complaint(fmt.Sprintf(format, args...)) }
