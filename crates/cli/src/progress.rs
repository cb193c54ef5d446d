//! Progress of long work on standard error: a bar in a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::units;

/// Seconds between lines when standard error is not a terminal.
const LINE_SECONDS: f64 = 10.0;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of text.
    Bytes,
    /// Things of the kind the label names.
    Items,
}

/// The progress of one piece of work.
pub struct Progress {
    label: String,
    unit: Unit,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// Starts to show progress. `total` may be 0 when it is not known yet.
    pub fn new(label: &str, unit: Unit, total: u64) -> Self {
        let template = match unit {
            Unit::Bytes => "{msg:20} {wide_bar} {bytes:>10}/{total_bytes} {bytes_per_sec:>12} left {eta}",
            Unit::Items => "{msg:20} {wide_bar} {human_pos:>10}/{human_len} {per_sec:>12} left {eta}",
        };
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_message(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let now = Instant::now();
        Self { label: label.to_owned(), unit, bar, started: now, last_line: now }
    }

    /// Shows how far the work is.
    pub fn at(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
            return;
        }
        if self.last_line.elapsed().as_secs_f64() < LINE_SECONDS {
            return;
        }
        self.last_line = Instant::now();
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = done as f64 / seconds;
        let left = if rate > 0.0 { total.saturating_sub(done) as f64 / rate } else { f64::NAN };
        let share = if total > 0 { 100.0 * done as f64 / total as f64 } else { 0.0 };
        let (amount, rate) = match self.unit {
            Unit::Bytes => (units::bytes(done), format!("{}/s", units::bytes(rate as u64))),
            Unit::Items => (units::short(done as f64), format!("{}/s", units::short(rate))),
        };
        eprintln!("{}: {share:.0}% ({amount}), {rate}, {} left", self.label, units::duration(left));
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
