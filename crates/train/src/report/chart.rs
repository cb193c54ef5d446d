//! Line charts as inline SVG.

use std::fmt::Write;

use super::html::{escape, number};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 36.0;

/// How values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From the smallest value.
    Linear,
    /// From zero.
    FromZero,
    /// By powers of ten.
    Log,
}

/// A line, or points.
pub(super) struct Series {
    pub name: &'static str,
    /// Class that gives its colour: `raw`, `main` or `held`.
    pub class: &'static str,
    pub points: Vec<(f64, f64)>,
    pub dots: bool,
}

/// A chart with all that makes it readable without seeing it.
pub(super) struct Chart {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub description: String,
    pub scale: Scale,
    pub series: Vec<Series>,
    /// Name and value.
    pub figures: Vec<(String, String)>,
}

/// A range of values on paper.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Self {
        let log = scale == Scale::Log;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite() && (!log || *v > 0.0)) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = if log { (0.1, 1.0) } else { (0.0, 1.0) };
        }
        if scale == Scale::FromZero {
            low = low.min(0.0);
        }
        if log {
            let (a, b) = (low.log10(), high.log10());
            let pad = ((b - a) * 0.05).max(0.1);
            return Self { low: a - pad, high: b + pad, log };
        }
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            let pad = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            return Self { low: if scale == Scale::FromZero { low } else { low - pad }, high: high + pad, log };
        }
        let pad = (high - low) * 0.05;
        Self { low: if scale == Scale::FromZero && low == 0.0 { low } else { low - pad }, high: high + pad, log }
    }

    /// 0 to 1, or `None` for what cannot be shown.
    fn place(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        let at = (value - self.low) / (self.high - self.low);
        (at.is_finite() && (-0.001..=1.001).contains(&at)).then_some(at)
    }

    fn ticks(&self, about: f64) -> Vec<f64> {
        let rough = (self.high - self.low) / about;
        if self.log && rough < 0.3 {
            // Less than a power of ten or two: 1, 2, 5.
            let powers = self.low.floor() as i32..=self.high.ceil() as i32;
            let all = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)));
            return all.filter(|v| self.place(*v).is_some()).collect();
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(power * 10.0);
        let step = if self.log { step.ceil() } else { step };
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last.min(first + 20))
            .map(|i| if self.log { 10f64.powf(i as f64 * step) } else { i as f64 * step })
            .collect()
    }
}

impl Chart {
    /// A `figure`: drawing, legend, table of key figures.
    pub fn html(&self, out: &mut String) {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let finite = all().filter(|p| p.0.is_finite() && p.1.is_finite()).count();
        let (mut x0, mut x1) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.0), b.max(p.0)));
        if x0 > x1 {
            (x0, x1) = (0.0, 1.0);
        }
        if x0 == x1 {
            (x0, x1) = ((x0 - 1.0).max(0.0), x1 + 1.0);
        }
        let x = Axis { low: x0, high: x1, log: false };
        let y = Axis::of(all().map(|p| p.1), self.scale);
        let (id, title) = (self.id, escape(self.title));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "<figure id=\"{id}\"><figcaption><h3>{title}</h3><span class=\"unit\">{}</span></figcaption>",
            escape(self.unit)
        );
        if finite == 0 {
            let _ = writeln!(out, "<p class=\"none\">No values yet.</p></figure>");
            return;
        }
        let _ = writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\" data-x0=\"{}\" data-x1=\"{}\" \
             data-y0=\"{}\" data-y1=\"{}\" data-log=\"{}\" data-box=\"{LEFT} {} {TOP} {}\"><title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{}</desc>",
            x.low,
            x.high,
            y.low,
            y.high,
            u8::from(y.log),
            WIDTH - RIGHT,
            HEIGHT - BOTTOM,
            escape(&self.description)
        );
        grid(out, &x, &y);
        for series in &self.series {
            draw(out, series, &x, &y);
        }
        let _ = write!(
            out,
            "<line class=\"cursor\" y1=\"{TOP}\" y2=\"{}\" x1=\"-9\" x2=\"-9\"/></svg>\n<p class=\"legend\">",
            HEIGHT - BOTTOM
        );
        for series in &self.series {
            let _ = write!(out, "<span class=\"key {}\">{}</span> ", series.class, escape(series.name));
        }
        let _ = write!(out, "<output class=\"read\"></output></p>\n<details><summary>Key figures</summary><table>");
        let _ = write!(out, "<caption class=\"sr\">Key figures: {title}</caption>");
        for (name, value) in &self.figures {
            let _ = write!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
        }
        out.push_str("</table></details></figure>\n");
    }
}

fn px(at: f64) -> f64 {
    LEFT + at * (WIDTH - LEFT - RIGHT)
}

fn py(at: f64) -> f64 {
    HEIGHT - BOTTOM - at * (HEIGHT - TOP - BOTTOM)
}

fn grid(out: &mut String, x: &Axis, y: &Axis) {
    out.push_str("<g class=\"grid\" aria-hidden=\"true\">");
    for tick in y.ticks(5.0) {
        if let Some(at) = y.place(tick).map(py) {
            let _ = write!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 5.0,
                number(tick)
            );
        }
    }
    for tick in x.ticks(6.0).into_iter().filter(|tick| tick.fract() == 0.0) {
        if let Some(at) = x.place(tick).map(px) {
            let _ = write!(out, "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{}</text>", HEIGHT - 12.0, number(tick));
        }
    }
    let _ = writeln!(
        out,
        "<line class=\"base\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\"/></g>",
        WIDTH - RIGHT,
        at = HEIGHT - BOTTOM
    );
}

fn draw(out: &mut String, series: &Series, x: &Axis, y: &Axis) {
    // Strictly finite values only; a gap where one is not.
    let placed = |&(px_, py_): &(f64, f64)| Some((px(x.place(px_)?), py(y.place(py_)?)));
    let runs: Vec<Vec<(f64, f64)>> = split(series.points.iter().map(placed));
    let class = series.class;
    let _ = write!(out, "<g class=\"series {class}\" data-name=\"{}\">", escape(series.name));
    for run in &runs {
        let thin = decimate(run);
        if thin.len() > 1 {
            out.push_str("<polyline points=\"");
            for (i, (px, py)) in thin.iter().enumerate() {
                let _ = write!(out, "{}{px:.1},{py:.1}", if i > 0 { " " } else { "" });
            }
            out.push_str("\"/>");
        }
        if series.dots && thin.len() <= 200 || thin.len() == 1 {
            for (px, py) in &thin {
                let _ = write!(out, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3.2\"/>");
            }
        }
    }
    out.push_str("</g>\n");
}

/// The stretches without a gap.
fn split(points: impl Iterator<Item = Option<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    for point in points {
        match point {
            Some(point) => run.push(point),
            None if run.is_empty() => {}
            None => runs.push(std::mem::take(&mut run)),
        }
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// First, lowest, highest and last of the points in each pixel, in order: nothing that could be seen is lost.
pub(super) fn decimate(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() < 2 * WIDTH as usize {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0 as i64 == b.0 as i64) {
        let by_value = |i: &usize, j: &usize| column[*i].1.total_cmp(&column[*j].1);
        let low = (0..column.len()).min_by(by_value).unwrap_or(0);
        let high = (0..column.len()).max_by(by_value).unwrap_or(0);
        let mut places = vec![0, low, high, column.len() - 1];
        places.sort_unstable();
        places.dedup();
        kept.extend(places.into_iter().map(|i| column[i]));
    }
    kept
}

/// Exponential moving average over about `window` values, and fewer at the beginning, where a curve falls fast. Values
/// that are not finite stay and do not count.
pub(super) fn smooth(points: &[(f64, f64)], window: f64) -> Vec<(f64, f64)> {
    let mut mean = 0.0;
    let mut seen = 0.0f64;
    let average = |&(x, y): &(f64, f64)| {
        if !y.is_finite() {
            return (x, f64::NAN);
        }
        let window = window.max(1.0).min(1.0 + seen / 5.0);
        seen += 1.0;
        mean += 2.0 / (window + 1.0) * (y - mean);
        (x, mean)
    };
    points.iter().map(average).collect()
}
