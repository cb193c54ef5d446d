//! The curves of a run.

use super::chart::{Chart, Scale, Series, smooth};
use super::data::{RunData, Step};
use super::html::number;
use crate::cluster::grouped;

/// Loss, learning rate, gradient norm, throughput.
pub(super) fn charts(data: &RunData) -> [Chart; 4] {
    let column = |value: fn(&Step) -> f64| -> Vec<(f64, f64)> {
        data.steps.iter().map(|step| (step.step as f64, value(step))).collect()
    };
    let window = (data.steps.len() as f64 / 50.0).clamp(1.0, 500.0);
    [
        loss(data, column(|s| s.loss), window),
        lr(column(|s| s.lr)),
        norm(column(|s| s.grad_norm), window),
        speed(column(|s| s.tokens_per_second), window),
    ]
}

fn loss(data: &RunData, raw: Vec<(f64, f64)>, window: f64) -> Chart {
    let held: Vec<(f64, f64)> = data.evals.iter().map(|eval| (eval.step as f64, eval.loss)).collect();
    let smoothed = smooth(&raw, window);
    let mut figures = ends(&smoothed, "training loss, smoothed");
    figures.extend(ends(&held, "held-out loss"));
    if let Some((step, low)) = lowest(&held) {
        figures.push(("lowest held-out loss".to_owned(), at(step, low)));
    }
    let description = format!(
        "Loss over steps. {}",
        figures.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; ")
    );
    let mut series = Vec::new();
    if raw.len() > 20 {
        series.push(Series { name: "each step", class: "raw", points: raw, dots: false });
    }
    series.push(Series { name: "training", class: "main", points: smoothed, dots: false });
    if !held.is_empty() {
        series.push(Series { name: "held-out", class: "held", points: held, dots: true });
    }
    Chart {
        id: "loss",
        title: "Loss",
        unit: "nats per token, by step",
        description,
        scale: Scale::Linear,
        series,
        figures,
    }
}

fn lr(points: Vec<(f64, f64)>) -> Chart {
    let mut figures = ends(&points, "learning rate");
    if let Some((step, high)) = highest(&points) {
        figures.push(("highest".to_owned(), at(step, high)));
    }
    Chart {
        id: "lr",
        title: "Learning rate",
        unit: "by step",
        description: describe("Learning rate over steps.", &figures),
        scale: Scale::FromZero,
        series: vec![Series { name: "learning rate", class: "main", points, dots: false }],
        figures,
    }
}

fn norm(raw: Vec<(f64, f64)>, window: f64) -> Chart {
    let mut figures = spread(&raw);
    if let Some((step, high)) = highest(&raw) {
        figures.push(("highest".to_owned(), at(step, high)));
    }
    // One spike must not flatten the rest.
    let spiky = matches!((median(&raw), highest(&raw)), (Some(middle), Some((_, high))) if high > 10.0 * middle);
    Chart {
        id: "norm",
        title: "Gradient norm",
        unit: if spiky { "before clipping, by step, logarithmic" } else { "before clipping, by step" },
        description: describe("Global norm of the gradient over steps.", &figures),
        scale: if spiky { Scale::Log } else { Scale::FromZero },
        series: raw_and_smooth(raw, window),
        figures,
    }
}

fn speed(raw: Vec<(f64, f64)>, window: f64) -> Chart {
    let mut figures = spread(&raw);
    if let Some((step, low)) = lowest(&raw) {
        figures.push(("slowest".to_owned(), at(step, low)));
    }
    Chart {
        id: "speed",
        title: "Throughput",
        unit: "tokens per second, by step",
        description: describe("Training tokens per second over steps.", &figures),
        scale: Scale::FromZero,
        series: raw_and_smooth(raw, window),
        figures,
    }
}

fn raw_and_smooth(raw: Vec<(f64, f64)>, window: f64) -> Vec<Series> {
    let main = Series { name: "smoothed", class: "main", points: smooth(&raw, window), dots: false };
    if raw.len() > 20 {
        vec![Series { name: "each step", class: "raw", points: raw, dots: false }, main]
    } else {
        vec![Series { name: "each step", ..main }]
    }
}

fn describe(begin: &str, figures: &[(String, String)]) -> String {
    let told: Vec<String> = figures.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("{begin} {}", told.join("; "))
}

fn at(step: f64, value: f64) -> String {
    format!("{} at step {}", number(value), grouped(step as u64))
}

fn ends(points: &[(f64, f64)], name: &str) -> Vec<(String, String)> {
    let mut finite = points.iter().filter(|p| p.1.is_finite());
    let Some(first) = finite.next() else { return Vec::new() };
    let mut rows = vec![(format!("{name}, first"), at(first.0, first.1))];
    if let Some(last) = finite.next_back() {
        rows.push((format!("{name}, last"), at(last.0, last.1)));
    }
    rows
}

fn spread(points: &[(f64, f64)]) -> Vec<(String, String)> {
    let last = points.iter().rev().find(|p| p.1.is_finite());
    let middle = median(points).map(|value| ("median".to_owned(), number(value)));
    middle.into_iter().chain(last.map(|p| ("last".to_owned(), at(p.0, p.1)))).collect()
}

/// The middle of the finite values.
pub(super) fn median(points: &[(f64, f64)]) -> Option<f64> {
    let mut values: Vec<f64> = points.iter().map(|p| p.1).filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn lowest(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    points.iter().copied().filter(|p| p.1.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1))
}

fn highest(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    points.iter().copied().filter(|p| p.1.is_finite()).max_by(|a, b| a.1.total_cmp(&b.1))
}
