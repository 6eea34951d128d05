package compat_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// crontabs are picked by hand, each for a corner of the grammar.
var crontabs = []string{
	"", "\n\n", "#", "# * * * * * task", "  # indented", "* * * * * task # no comment here",
	"* * * * * task", "\t* * * * * task \t", "*\t*  *\u00a0*\u3000* task", "\ufeff* * * * * task", "* * * * * task\r\n* * * * * other\r\n", "* * * * * a\r* * * * * b",
	"* * * * *", "* * * *", "* * * * task", "* * * * * *", "* * * * * 5", "* * * * * -task", "* * * * * task:a/b-c_d", "* * * * * _", "task", "* * * * * tásk",
	"* * * * * 1 2", "a * * * * task", "? * * * * task", "* * L * * task", "* * * * 1#2 task", "*\u2028* * * * task", "* * * * * task\u2028{}", "* * * * * task {a:'\u2028'}",
	"60 * * * * task", "* 24 * * * task", "* * 32 * * task", "* * 0 * * task", "* * * 13 * task", "* * * 0 * task", "* * * * 8 task", "* * * * 7 task", "* * * * 5-7 task",
	"* * * * 6-8 task", "50-70 * * * * task", "70-80 * * * * task", "* * 0-5 * * task", "5-5 * * * * task", "6-5 * * * * task", "*/0 * * * * task", "*/00 * * * * task",
	"*/1 * * * * task", "*/100 * * * * task", "*/99999999999999999999999999 * * * * task", "007 * * * * task", "99999999999999999999 * * * * task",
	"9007199254740993 * * * * task", "123456789012345678901234567890 * * * * task", "1" + strings.Repeat("0", 400) + " * * * * task",
	"1-99999999999999999999999 * * * * task", "9007199254740993-9007199254740992 * * * * task", "1,,2 * * * * task", ", * * * * task", "- * * * * task", "5- * * * * task",
	"-5 * * * * task", "/ * * * * task", "*/ * * * * task", "** * * * * task", "*-5 * * * * task", "5/2 * * * * task", "1-2-3 * * * * task", "*/2/2 * * * * task", "*/-2 * * * * task",
	"1,5-9,*/20,3 * * * * task", "0 0 31 2,4 * task", "0 0 29 2 * task", "0 0 13 * 5 task", "0 0 */1 * 5 task", "0 0 1-31 * 5 task", "0 0 13 * */1 task", "0 0 13 * 0-7 task",
	"* * * * * task ?", "* * * * * task ? {}", "* * * * * task ?id", "* * * * * task ?id=", "* * * * * task ?id=a", "* * * * * task ?id=1a", "* * * * * task ?id=a.b",
	"* * * * * task ?id=a&id=a", "* * * * * task ?id=a&foo&id=a", "* * * * * task ?foo&id=a&id=a", "* * * * * task ?flags=x", "* * * * * task ?=x", "* * * * * task ?&&", "* * * * * task ?=",
	"* * * * * task ?%69d=a", "* * * * * task ?id=%61b", "* * * * * task ?i%zz=a", "* * * * * task ?jobKey=%zz", "* * * * * task ?jobKey=%41%zz%", "* * * * * task ?jobKey=%ff%41",
	"* * * * * task ?jobKey=%e2%82", "* * * * * task ?jobKey=a+b%2Bc", "* * * * * task ?jobKey=a%0ab", "* * * * * task ?jobKey=ü", "* * * * * task ?jobKey=a=b=c", "* * * * * task ?jobKey=",
	"* * * * * task ?jobKeyMode=replace", "* * * * * task ?jobKeyMode=unsafe_dedupe", "* * * * * task ?jobKey=a&jobKeyMode=preserve_run_at", "* * * * * task ?__proto__=1",
	"* * * * * task ?constructor", "* * * * * task ?toString=1", "* * * * * task ?fill=4w3d2h1m", "* * * * * task ?fill=1y", "* * * * * task ?fill=1", "* * * * * task ?fill=d", "* * * * * task ?fill=0s",
	"* * * * * task ?fill=1d1d1d", "* * * * * task ?max=1&queue=a:b-c_d&priority=-7", "* * * * * task ?max=-1", "* * * * * task ?max=1.5", "* * * * * task ?max=007", "* * * * * task ?queue=a.b",
	"* * * * * task ?queue=", "* * * * * task ?priority=+1", "* * * * * task ?priority=--1", "* * * * * task ?priority=-0", "* * * * * task ?id=a{} {}", "* * * * * task ?id=a{b:1}",
	"* * * * * task {", "* * * * * task }", "* * * * * task []", "* * * * * task null", "* * * * * task{}", "* * * * * task {}", "* * * * * task {} {}", "* * * * * task {}}", "* * * * * task {{}",
	"* * * * * task {a:1,}", "* * * * * task {,}", "* * * * * task {a}", "* * * * * task {a:}", "* * * * * task {a 1}", "* * * * * task {a:1 b:2}", "* * * * * task {a:1;}", "* * * * * task {1:1}",
	"* * * * * task {a:[,]}", "* * * * * task {a:[1,]}", "* * * * * task {a:[1 2]}", "* * * * * task {a:[}", "* * * * * task {a:01}", "* * * * * task {a:.}", "* * * * * task {a:+.5,b:-.5e1,c:5.,d:5.e1}",
	"* * * * * task {a:--1}", "* * * * * task {a:1e}", "* * * * * task {a:1e+}", "* * * * * task {a:0x}", "* * * * * task {a:0xg}", "* * * * * task {a:0xFf,b:-0x10,c:0e5,d:0.}", "* * * * * task {a:12345678901234567890}",
	"* * * * * task {a:tru}", "* * * * * task {a:truee}", "* * * * * task {a:nul", "* * * * * task {a:undefined}", "* * * * * task {a:Infinit}", "* * * * * task {a:-NaX}",
	`* * * * * task {a:'it\'s',b:"\"",c:'"',d:"'"}`, `* * * * * task {a:'\x4}`, `* * * * * task {a:'\u12}`, `* * * * * task {a:'\1'}`, `* * * * * task {a:'\01'}`, `* * * * * task {a:'\0\b\f\n\r\t\v\q'}`,
	`* * * * * task {a:'}`, `* * * * * task {a:'\}`, `* * * * * task {a:"\ud83d\ude00",b:"\ud83d",c:"\ude00x"}`, `* * * * * task {\u0061:1,$:2,_:3,\u0024:4,a\u0062:5}`, `* * * * * task {\u0031:1}`, `* * * * * task {a\u002d:1}`,
	`* * * * * task {\x61:1}`, `* * * * * task {a\:1}`, `* * * * * task {\u00:1}`, "* * * * * task {ü:1,ℵ:2,a\u200c:3,a٣:4}", "* * * * * task {😀:1}", "* * * * * task {a:😀}", "* * * * * task {'😀':x}", "* * * * * task {𝒳:1}",
	"* * * * * task {a:1 /* b */, // c }", "* * * * * task {/*}", "* * * * * task {/* *}", "* * * * * task {/ }", "* * * * * task {a:1}//}", "* * * * * task {a:1}/**/ /*}*/}", "* * * * * task {/**/}", "* * * * * task {a/***/:/*/*/1}",
	"* * * * * task {a:\"\t\",b:'\x01'}", "* * * * * task {\x01}", "* * * * * task {a:\x7f}", "* * * * * task {a:'x'\\}", "* * * * * task {__proto__:1,constructor:2,a:1,a:2,2:3,'1':4}", "* * * * * task {'2':3,'1':4,__proto__:{x:1}}",
	"* * * * * a\n* * * * * a", "* * * * * a\n* * * * * b ?id=a\n* * * * * a\n* * * * * c\n* * * * * c", "* * * * * b\n* * * * * a ?id=b\n* * * * * B", "* * * * * a\n\n60 * * * * b",
	// Known to us only.
	"@daily task", "@reboot task", "@ task", "* * * JAN * task", "* * * * mon-fri task", "* * * * mond task", "MON * * * * task", "* * * MON * task", "* * * * MON- task", "* * * * * mon task", "* * * * * mon",
	"* * * * * * task", "60 * * * * * task", "* * * * * * task {a: b c}", "* * * * * task task", "1-5/2 * * * * task", "5-1/2 * * * * task", "1-5/0 * * * * task", "* * * * * task ?tz=UTC", "* * * * * task ?tz=x&foo",
	// Refused by us only.
	"* * * * * task ?max=0", "* * * * * task ?max=99999", "* * * * * task ?priority=40000", "* * * * * task ?jobKey=%00", "* * * * * task ?fill=999999999999w", "* * * * * task {a:[NaN,Infinity,-Infinity]}",
	"* * * * * task {a:1e400}", "* * * * * task {a:0x123456789abcdef01}", "* * * * * " + strings.Repeat("t", 200), "0" + strings.Repeat(",0", 400) + " * * * * task", "* * * * * task {a:'" + strings.Repeat("x", 1<<16) + "'}",
	"* * * * * task {a:" + strings.Repeat("[", 101) + strings.Repeat("]", 101) + "}",
}

func randomCrontab(random *rand.Rand) string {
	lines := make([]string, 1+random.IntN(3)*random.IntN(2))
	for i := range lines {
		line := randomLine(random, i)
		for range random.IntN(3) * random.IntN(2) * random.IntN(2) {
			line = mutate(random, line)
		}
		lines[i] = line
	}
	return strings.Join(lines, pick(random, "\n", "\r\n", "\n# comment\n\n"))
}

func pick(random *rand.Rand, from ...string) string { return from[random.IntN(len(from))] }

func randomLine(random *rand.Rand, i int) string {
	var b strings.Builder
	for _, bounds := range [][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}} {
		b.WriteString(randomCrontabField(random, bounds[0], bounds[1]) + pick(random, " ", " ", "\t", "  "))
	}
	b.WriteString(fmt.Sprintf("task_%d", i))
	if random.IntN(8) == 0 {
		b.WriteString(pick(random, ":a", "/b", "-c", "_d"))
	}
	if random.IntN(2) == 0 {
		b.WriteString(" ?" + randomOptions(random, i))
	}
	if random.IntN(2) == 0 {
		b.WriteString(" {" + randomMembers(random, 3) + "}")
	}
	return b.String()
}

func randomCrontabField(random *rand.Rand, least, most int) string {
	if random.IntN(5) < 2 {
		return "*"
	}
	parts := make([]string, 1+random.IntN(4)*random.IntN(2))
	for i := range parts {
		a := least + random.IntN(most-least+1)
		switch random.IntN(8) {
		case 0:
			parts[i] = fmt.Sprintf("*/%d", 1+random.IntN(most))
		case 1, 2, 3:
			parts[i] = fmt.Sprintf("%d-%d", a, a+1+random.IntN(max(1, most-a)))
		case 4:
			parts[i] = fmt.Sprintf("%02d", a)
		default:
			parts[i] = fmt.Sprint(a)
		}
		if random.IntN(150) == 0 {
			parts[i] = pick(random, "", "60", "0", "5-5", "*/0", "9-3", "1-5/2", "3/4", "*-1", "MON", "jan", "L", "?")
		}
	}
	return strings.Join(parts, ",")
}

func randomOptions(random *rand.Rand, i int) string {
	options := make([]string, 1+random.IntN(3))
	for n := range options {
		options[n] = pick(random,
			fmt.Sprintf("id=id%d", i), "id=a-b_c", "fill=1d", "fill=2w3d4h5m6s", "fill=90m", "max=3", "max=25", "queue=q", "queue=a:b", "jobKey=k", "jobKey=a%20b+c", "jobKey=%C3%BC",
			"jobKeyMode=replace", "jobKeyMode=preserve_run_at", "priority=-5", "priority=10", pick(random, "id=1", "fill=x", "max=0", "flags=a", "tz=UTC", "queue=", "jobKeyMode=", "overlap=skip", "id=same", ""))
	}
	return strings.Join(options, "&")
}

func randomMembers(random *rand.Rand, depth int) string {
	var b strings.Builder
	for i := range random.IntN(4) {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(pick(random, "a", "b", "$x", "_y", `"q r"`, "'s'", `\u0061b`, "ünï", "'1'") + pick(random, ":", " : ", ": ", " /* c */:"))
		b.WriteString(randomValue(random, depth))
	}
	return b.String() + pick(random, "", "", " ", ",")
}

func randomValue(random *rand.Rand, depth int) string {
	choice := random.IntN(8)
	switch {
	case choice == 0 && depth > 0:
		return "{" + randomMembers(random, depth-1) + "}"
	case choice == 1 && depth > 0:
		values := make([]string, random.IntN(4))
		for i := range values {
			values[i] = randomValue(random, depth-1)
		}
		return "[" + strings.Join(values, pick(random, ",", ", ")) + "]"
	}
	return pick(random, "1", "-2.50", "+3", ".5", "5.", "1e3", "0x1F", "0", "null", "true", "false", `"x\ny"`, `'it\'s'`, `"\u00e9\x41"`, `'"'`, `"ü😀"`, `"\ud83d\ude00"`, `'a // b'`, `"/* c */"`)
}

// mutate changes one character to one of those that mean something somewhere.
func mutate(random *rand.Rand, line string) string {
	runes := []rune(line)
	alphabet := []rune("0123456789*/,-- \t?&=%+{}[]:'\"\\.xeuabn_@#\u00a0ü😀\x01MON")
	i := random.IntN(len(runes) + 1)
	switch random.IntN(4) {
	case 0:
		return string(runes[:i]) + string(alphabet[random.IntN(len(alphabet))]) + string(runes[i:])
	case 1:
		return string(runes[:i]) + string(runes[min(i+1, len(runes)):])
	case 2:
		return string(runes[:i]) // cut off
	default:
		return string(runes[:i]) + string(alphabet[random.IntN(len(alphabet))]) + string(runes[min(i+1, len(runes)):])
	}
}
