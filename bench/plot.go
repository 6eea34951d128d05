package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// panel is one pair of axes; the panels of a plot stand below each other and share the axis from left to right.
type panel struct {
	title  string
	curves []curve
}

// curve is a line through points; a thin one has the colour of the one before it and no name.
type curve struct {
	name   string
	thin   bool
	points [][2]float64
}

const (
	plotWidth   = 860
	panelHeight = 220
	plotLeft    = 70
	plotRight   = 20
)

var colours = []string{"#2563a8", "#c2571a", "#3b7d4f", "#7a4fa3"}

// plot draws panels as SVG. Both axes begin at 0.
func plot(title, across string, panels ...panel) string {
	var w strings.Builder
	height := 50 + len(panels)*(panelHeight+60) + 20
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#222">`+"\n", plotWidth, height)
	fmt.Fprintf(&w, `<title>%s</title>`+"\n"+`<rect width="100%%" height="100%%" fill="#fff"/>`+"\n", html.EscapeString(title))
	fmt.Fprintf(&w, `<text x="%d" y="24" font-size="14" font-weight="bold">%s</text>`+"\n", plotLeft, html.EscapeString(title))
	furthest := 0.0
	for _, p := range panels {
		for _, c := range p.curves {
			for _, xy := range c.points {
				furthest = max(furthest, xy[0])
			}
		}
	}
	for i, p := range panels {
		p.draw(&w, float64(60+i*(panelHeight+60)), furthest, across, i == len(panels)-1)
	}
	w.WriteString("</svg>\n")
	return w.String()
}

func (p panel) draw(w *strings.Builder, top, furthest float64, across string, last bool) {
	highest := 0.0
	for _, c := range p.curves {
		for _, xy := range c.points {
			highest = max(highest, xy[1])
		}
	}
	stepX, stepY := step(furthest), step(highest)
	furthest, highest = max(furthest, stepX), math.Ceil(max(highest, stepY)/stepY)*stepY
	bottom := top + 20 + panelHeight
	x := func(v float64) float64 { return plotLeft + v/furthest*(plotWidth-plotLeft-plotRight) }
	y := func(v float64) float64 { return bottom - v/highest*panelHeight }

	fmt.Fprintf(w, `<text x="%d" y="%.0f" font-weight="bold">%s</text>`+"\n", plotLeft, top, html.EscapeString(p.title))
	for v := 0.0; v <= highest*1.0001; v += stepY {
		fmt.Fprintf(w, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, y(v), plotWidth-plotRight, plotLeft-6, y(v)+4, number(v, digitsOf(stepY)))
	}
	for v := 0.0; v <= furthest; v += stepX {
		fmt.Fprintf(w, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x(v), bottom+16, number(v, digitsOf(stepX)))
	}
	if last {
		fmt.Fprintf(w, `<text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n", x(furthest), bottom+32, html.EscapeString(across))
	}
	colour, legend := -1, float64(plotWidth-plotRight)
	for i, c := range p.curves {
		dash := ` stroke-width="1.5"`
		if c.thin && i > 0 {
			dash = ` stroke-width="1" stroke-dasharray="4 3"`
		} else {
			colour++
		}
		stroke := colours[colour%len(colours)]
		var d strings.Builder
		for j, xy := range c.points {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(j, 1)], x(xy[0]), y(xy[1]))
		}
		fmt.Fprintf(w, `<path d="%s" fill="none" stroke="%s"%s/>`+"\n", d.String(), stroke, dash)
		if c.thin {
			continue
		}
		legend -= float64(7*len(c.name) + 36)
		fmt.Fprintf(w, `<path d="M%.0f %.0fh20" stroke="%s"%s/><text x="%.0f" y="%.0f">%s</text>`+"\n",
			legend, top-4, stroke, dash, legend+26, top, html.EscapeString(c.name))
	}
}

// step is a round distance, so that there are four to ten up to the highest.
func step(highest float64) float64 {
	if highest <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(highest)))
	for _, of := range []float64{0.1, 0.2, 0.5, 1} {
		if highest/(of*unit) <= 10 {
			return of * unit
		}
	}
	return 2 * unit
}

func digitsOf(step float64) int { return max(0, -int(math.Floor(math.Log10(step)+1e-9))) }
