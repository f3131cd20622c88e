//! One chart as inline SVG: lines over two axes, coloured by classes that the page's style defines.

use std::fmt::{self, Write};

use super::scale::{Scale, label};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// A chart.
#[derive(Debug)]
pub(super) struct Chart {
    /// The text alternative for readers who cannot see the chart.
    pub(super) about: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// One axis.
#[derive(Debug)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    /// Written after each tick, such as a unit.
    pub(super) unit: &'static str,
}

/// One series.
#[derive(Debug)]
pub(super) struct Line {
    /// Its class is `s` and this number.
    pub(super) series: usize,
    pub(super) name: String,
    /// In order of x; `None` breaks the line.
    pub(super) points: Vec<Option<(f64, f64)>>,
}

impl Chart {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.scale.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.scale.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn grid(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in self.y.scale.ticks() {
            let (y, text) = (self.y(tick), label(tick));
            write!(out, "<path class=grid d='M{LEFT} {y:.1}H{right}'/>")?;
            write!(
                out,
                "<text class=end x={:.1} y={:.1}>{text}{}</text>",
                LEFT - 7.0,
                y + 4.0,
                self.y.unit
            )?;
        }
        for tick in self.x.scale.ticks() {
            let (x, text) = (self.x(tick), label(tick));
            write!(out, "<path class=grid d='M{x:.1} {TOP}V{bottom}'/>")?;
            write!(
                out,
                "<text class=middle x={x:.1} y={:.1}>{text}{}</text>",
                bottom + 17.0,
                self.x.unit
            )?;
        }
        let (middle, below) = (f64::midpoint(LEFT, right), HEIGHT - 8.0);
        write!(
            out,
            "<text class='middle name' x={middle:.1} y={below:.1}>{}</text>",
            self.x.label
        )?;
        let middle = f64::midpoint(TOP, bottom);
        write!(
            out,
            "<text class='middle name' transform='translate(13 {middle:.1})rotate(-90)'>{}</text>",
            self.y.label
        )
    }

    fn path(&self, line: &Line) -> String {
        let mut path = String::new();
        let mut pen = 'M';
        for point in &line.points {
            let Some((x, y)) = *point else {
                pen = 'M';
                continue;
            };
            // Writing to a string cannot fail.
            let _ = write!(path, "{pen}{:.1} {:.1}", self.x(x), self.y(y));
            pen = 'L';
        }
        path
    }
}

impl fmt::Display for Chart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{}'>",
            escaped(&self.about)
        )?;
        self.grid(out)?;
        for line in &self.lines {
            let (series, name, path) = (line.series, escaped(&line.name), self.path(line));
            write!(
                out,
                "<path class='line s{series}' d='{path}'><title>{name}</title></path>"
            )?;
        }
        writeln!(out, "</svg>")
    }
}

/// Text that means nothing to HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\'' => safe.push_str("&#39;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_breaks_where_there_is_no_value() {
        let axis = |label| Axis {
            label,
            scale: Scale::Linear { from: 0.0, to: 1.0 },
            unit: "",
        };
        let points = vec![Some((0.0, 0.0)), Some((1.0, 1.0)), None, Some((0.5, 0.5))];
        let line = Line {
            series: 3,
            name: "a's".to_owned(),
            points,
        };
        let chart = Chart {
            about: "<>".to_owned(),
            x: axis("x"),
            y: axis("y"),
            lines: vec![line],
        };
        assert_eq!(
            chart.path(&chart.lines[0]),
            "M56.0 334.0L946.0 12.0M501.0 173.0"
        );
        let svg = chart.to_string();
        assert!(
            svg.contains("class='line s3'") && svg.contains("<title>a&#39;s</title>"),
            "{svg}"
        );
        assert!(svg.contains("aria-label='&lt;&gt;'"));
    }
}
