//! The chart: bars, each group with its own scale. It is drawn by hand, so it needs no tool.

use std::fmt::Write;

use hydrant_benches::figure::{Figure, Series, short};

const WIDTH: f64 = 880.0;
const LABELS: f64 = 330.0;
const BAR: f64 = 18.0;
const ROW: f64 = 26.0;
const TITLE: f64 = 40.0;
const MARGIN: f64 = 24.0;

const STYLE: &str = "  <style>
    text { font: 13px ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328; }
    .title { font-weight: 600; font-size: 15px; }
    .soft { fill: #59636e; }
    .card { fill: #ffffff; stroke: #d8dee4; }
    .ours { fill: #0b6bcb; }
    .other { fill: #b7c0c9; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .soft { fill: #9198a1; }
      .card { fill: #0d1117; stroke: #30363d; }
      .ours { fill: #58a6ff; }
      .other { fill: #4d5761; }
    }
  </style>
";

/// Draws all figures that have a title for the chart.
pub(crate) fn draw(figures: &[&Figure]) -> String {
    let shown: Vec<(&str, &Figure)> =
        figures.iter().filter_map(|figure| Some((figure.chart.as_deref()?, *figure))).collect();
    let mut groups = String::new();
    let mut y = MARGIN;
    for (title, figure) in &shown {
        group(&mut groups, &mut y, title, figure);
    }
    let height = y + MARGIN / 2.0;
    let titles: Vec<&str> = shown.iter().map(|(title, _)| *title).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"title desc\">\n  <title id=\"title\">Hydrant beside raw loops, other logs and \
         databases</title>\n  <desc id=\"desc\">Bars: {}. The numbers are in the tables.</desc>\n{STYLE}  \
         <rect class=\"card\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"12\"/>\n{groups}</svg>\n",
        escape(&titles.join("; ")),
        WIDTH - 1.0,
        height - 1.0,
    )
}

fn group(out: &mut String, y: &mut f64, title: &str, figure: &Figure) {
    let longest = figure.series.iter().map(Series::median).fold(0.0, f64::max);
    let room = WIDTH - LABELS - 2.0 * MARGIN - 90.0;
    writeln!(
        out,
        "  <text class=\"title\" x=\"{MARGIN}\" y=\"{:.1}\">{} <tspan class=\"soft\">({})</tspan></text>",
        *y + 14.0,
        escape(title),
        escape(&figure.unit),
    )
    .expect("a string takes everything");
    *y += TITLE - 12.0;
    for series in &figure.series {
        let median = series.median();
        let length = (room * median / longest).max(1.0);
        let class = if series.label.starts_with("hydrant") { "ours" } else { "other" };
        let (left, text) = (MARGIN + LABELS, *y + BAR - 4.5);
        writeln!(
            out,
            "  <text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"3\"/>\
             <text class=\"soft\" x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
            left - 10.0,
            escape(&series.label.replace('`', "")),
            left + length + 8.0,
            short(median),
        )
        .expect("a string takes everything");
        *y += ROW;
    }
    *y += TITLE - ROW + 6.0;
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
