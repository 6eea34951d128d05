package cron

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// randomField returns a field of the common grammar: lists of numbers, ranges, * and */n; with ours, ranges with steps
// and names, too.
func randomField(random *rand.Rand, k kind, ours bool) string {
	if random.IntN(5) < 2 {
		return "*"
	}
	parts := make([]string, 1+random.IntN(3)*random.IntN(2))
	value := func(least int) int { return least + random.IntN(k.max-least+1) }
	for i := range parts {
		a := value(k.min)
		parts[i] = fmt.Sprint(a)
		if ours && k.names != nil && random.IntN(2) == 0 {
			parts[i] = k.names[a-k.min]
		}
		switch choice := random.IntN(8); {
		case choice == 0:
			parts[i] = fmt.Sprintf("*/%d", 1+random.IntN(k.max+2))
		case choice < 4 && a < k.max:
			parts[i] += fmt.Sprintf("-%d", value(a+1))
			if ours && random.IntN(2) == 0 {
				parts[i] += fmt.Sprintf("/%d", 1+random.IntN(k.max))
			}
		}
	}
	return strings.Join(parts, ",")
}

func randomExpression(random *rand.Rand, ours bool) string {
	of := kinds[1:]
	if ours && random.IntN(3) == 0 {
		of = kinds[:]
	}
	fields := make([]string, len(of))
	for i, k := range of {
		fields[i] = randomField(random, k, ours)
	}
	return strings.Join(fields, " ")
}
