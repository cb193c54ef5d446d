//! A plan as text.

use std::fmt;

use verve_model::Recompute;

use super::{ClusterPlan, PF_DAY};
use crate::autosize::short;

impl fmt::Display for ClusterPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        section(
            f,
            "Model",
            &[
                (
                    "size",
                    format!(
                        "{} ({} layers, width {}, {} heads of {})",
                        self.preset, model.n_layers, model.d_model, model.n_heads, model.d_head
                    ),
                ),
                ("parameters", format!("{} ({})", grouped(self.n_params), short(self.n_params as f64))),
                ("context, vocabulary", format!("{}, {}", grouped(model.n_ctx as u64), grouped(model.n_vocab as u64))),
            ],
        )?;
        section(
            f,
            "Training",
            &[
                (
                    "tokens",
                    format!(
                        "{} ({:.1} for each parameter)",
                        short(self.tokens as f64),
                        self.tokens as f64 / self.n_params as f64
                    ),
                ),
                ("batch", format!("{} tokens", grouped(self.batch_tokens))),
                ("steps", grouped(self.steps)),
                ("FLOPs for a token", format!("{:.3e}", self.flops_per_token)),
                ("FLOPs", format!("{:.3e} ({:.1} PF-days), attention included", self.total_flops, self.pf_days)),
                (
                    "FLOPs as 6 N D",
                    format!("{:.3e} ({:.1} PF-days)", self.total_flops_6nd, self.total_flops_6nd / PF_DAY),
                ),
            ],
        )?;
        writeln!(f, "Memory of each device{}", if self.fits { "" } else { ", at the least" })?;
        let width = self.memory.iter().map(|item| item.purpose.len()).max().unwrap_or(0).max("available".len());
        for item in &self.memory {
            writeln!(f, "  {:width$}  {:>12}", item.purpose, gb(item.bytes))?;
        }
        writeln!(f, "  {:width$}  {:>12}", "total", gb(self.memory_total))?;
        writeln!(f, "  {:width$}  {:>12}\n", "available", gb(self.devices.bytes))?;

        let layout = self.layout;
        let mut rows = vec![
            ("devices", format!("{} with {} each", grouped(self.devices.count), gb(self.devices.bytes))),
            ("layout", format!("{} data x {} tensor x {} pipeline", layout.data, layout.tensor, layout.pipeline)),
            (
                "micro-batch",
                format!(
                    "{} x {} tokens, {} for each copy in a step",
                    self.micro_batch, model.n_ctx, self.micro_batches
                ),
            ),
            ("computed again", recompute(self.recompute).to_owned()),
        ];
        if let Some(speed) = self.tokens_per_second {
            rows.push(("tokens/s", short(speed)));
        }
        if let Some(seconds) = self.seconds {
            rows.push(("time", duration(seconds)));
        }
        if let Some(fewest) = self.fewest_devices {
            rows.push(("fewest devices", format!("{} of these", grouped(fewest))));
        }
        section(f, "Devices", &rows)?;
        if !self.fits {
            writeln!(f, "It does not fit. {}\n", self.advice())?;
        }
        writeln!(f, "Assumed")?;
        self.assumptions.iter().try_for_each(|line| writeln!(f, "  - {line}"))
    }
}

impl ClusterPlan {
    /// What to do where it does not fit; empty where it does.
    pub fn advice(&self) -> String {
        if self.fits {
            return String::new();
        }
        let more = match self.fewest_devices {
            Some(fewest) => format!("{} needs at least {} such devices", self.preset, grouped(fewest)),
            None => format!("{} fits on no number of such devices", self.preset),
        };
        match &self.largest_preset {
            Some(preset) => {
                format!("{more}; the largest size that fits on {} is {preset}.", grouped(self.devices.count))
            }
            None => format!("{more}; no size fits on {}.", grouped(self.devices.count)),
        }
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, rows: &[(&str, String)]) -> fmt::Result {
    writeln!(f, "{title}")?;
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
    for (name, value) in rows {
        writeln!(f, "  {name:width$}  {value}")?;
    }
    writeln!(f)
}

fn recompute(level: Recompute) -> &'static str {
    match level {
        Recompute::None => "nothing",
        Recompute::Activations => "feed-forward activations",
        Recompute::ActivationsAndNorms => "feed-forward activations and normalisations",
        Recompute::Blocks => "whole blocks",
    }
}

/// Powers of 1000, as devices are sold.
fn gb(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e9 => format!("{:.2} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Time for people, in one or two units.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() => "unknown".to_owned(),
        ..60.0 => format!("{seconds:.1} s"),
        ..3600.0 => format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), (seconds % 60.0).floor()),
        ..86_400.0 => format!("{:.0} h {:02.0} min", (seconds / 3600.0).floor(), (seconds % 3600.0 / 60.0).floor()),
        ..31_557_600.0 => format!("{:.1} days", seconds / 86_400.0),
        _ => format!("{:.1} years", seconds / 31_557_600.0),
    }
}
