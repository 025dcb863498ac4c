package report

import (
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// write draws the plot into an SVG file.
func (p Plot) write(file string) error {
	out := plot.New()
	out.Title.Text, out.X.Label.Text, out.Y.Label.Text = p.Title, p.X, p.Y
	out.Legend.Top = true
	out.Add(plotter.NewGrid())
	if p.LogX {
		out.X.Scale, out.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if p.LogY {
		out.Y.Scale, out.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	for i, s := range p.Series {
		if p.Bars {
			values := make(plotter.Values, len(p.Labels))
			for _, point := range s.Points {
				values[int(point[0])] = point[1]
			}
			width := vg.Points(min(60, 480/float64(len(p.Labels))) / float64(len(p.Series)))
			bars, err := plotter.NewBarChart(values, width)
			if err != nil {
				return err
			}
			bars.Color, bars.LineStyle.Width = plotutil.Color(i), 0
			bars.Offset = width * vg.Length(float64(i)-float64(len(p.Series)-1)/2)
			out.Add(bars)
			out.Legend.Add(s.Name, bars)
			continue
		}
		points := make(plotter.XYs, len(s.Points))
		for n, point := range s.Points {
			points[n].X, points[n].Y = point[0], point[1]
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		out.Add(line, marks)
		out.Legend.Add(s.Name, line, marks)
	}
	if p.Bars {
		out.NominalX(p.Labels...)
		// The outer bars and labels are wider than a point.
		out.X.Min, out.X.Max = -0.5, float64(len(p.Labels))-0.5
	}
	if !p.LogY {
		out.Y.Min = 0 // or small differences look large
	}
	return out.Save(24*vg.Centimeter, 12*vg.Centimeter, file)
}
