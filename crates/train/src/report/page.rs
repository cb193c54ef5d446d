//! The page.

use std::fmt::Write;

use serde_json::Value;
use verve_shard::Split;

use super::charts::{charts, median};
use super::data::{Eval, RunData};
use super::html::{escape, number};
use crate::autosize::short;
use crate::cluster::{duration, grouped};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Longest sample that is shown whole, characters.
const SAMPLE_CHARS: usize = 4000;
/// Most shards that are listed.
const MOST_SHARDS: usize = 500;

/// The whole page. Every text from the run is escaped.
pub(super) fn render(data: &RunData) -> String {
    let mut out = String::with_capacity(1 << 18);
    let name = escape(&data.name);
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\
         <meta name=\"referrer\" content=\"no-referrer\"><title>{name} - verve run</title>\n<style>\n{STYLE}</style></head><body><main>\n<h1>{name}</h1><p class=\"sub\">{}</p>",
        escape(&state(data))
    );
    if !data.warnings.is_empty() {
        out.push_str("<div class=\"warn\" role=\"note\"><ul>");
        for warning in &data.warnings {
            let _ = write!(out, "<li>{}</li>", escape(warning));
        }
        out.push_str("</ul></div>\n");
    }
    headline(&mut out, data);
    out.push_str("<h2>Curves</h2>\n<div class=\"charts\">\n");
    charts(data).iter().for_each(|chart| chart.html(&mut out));
    out.push_str("</div>\n");
    samples(&mut out, data);
    evaluations(&mut out, &data.evals);
    checkpoints(&mut out, data);
    manifest(&mut out, data);
    memory(&mut out, data);
    settings(&mut out, data);
    let _ = writeln!(
        out,
        "<footer>Written by verve {}.</footer>\n</main>\n<script>\n{SCRIPT}</script>\n</body></html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn text<'a>(run: &'a Value, key: &str) -> Option<&'a str> {
    run.get(key).and_then(Value::as_str)
}

/// Where the run is, in a line.
fn state(data: &RunData) -> String {
    let done = data.steps.last().map_or(0, |step| step.step);
    let mut parts = vec![match data.steps_wanted {
        Some(wanted) if done >= wanted => format!("finished: {} steps", grouped(done)),
        Some(wanted) => {
            let share = done as f64 / wanted.max(1) as f64 * 100.0;
            format!("step {} of {} ({share:.0}%): still at work, or stopped", grouped(done), grouped(wanted))
        }
        None => format!("{} steps so far", grouped(done)),
    }];
    parts.extend(text(&data.run, "code_version").map(|version| format!("code {version}")));
    parts.extend(text(&data.run, "backend").map(|backend| format!("on {backend}")));
    parts.join(" · ")
}

fn best(evals: &[Eval]) -> Option<&Eval> {
    evals.iter().filter(|eval| eval.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss))
}

/// A figure at the top: name, value, remark.
struct Tile(&'static str, String, String);

fn headline(out: &mut String, data: &RunData) {
    out.push_str("<dl class=\"tiles\">");
    for Tile(name, value, remark) in tiles(data) {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{}", escape(&value));
        if !remark.is_empty() {
            let _ = write!(out, "<small>{}</small>", escape(&remark));
        }
        out.push_str("</dd></div>");
    }
    out.push_str("</dl>\n");
}

fn tiles(data: &RunData) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let Some(n_params) = data.run.get("n_params").and_then(Value::as_u64) {
        tiles.push(Tile("Parameters", short(n_params as f64), grouped(n_params)));
    }
    let tokens = data.steps.last().map_or(0, |step| step.tokens);
    let shards = data.data.iter().flat_map(|manifest| &manifest.shards);
    let train: u64 =
        shards.filter(|shard| shard.split == Split::Train).fold(0, |sum, s| sum.saturating_add(s.n_tokens));
    let epochs =
        if train > 0 { format!("{} times the text", number(tokens as f64 / train as f64)) } else { String::new() };
    tiles.push(Tile("Tokens seen", short(tokens as f64), epochs));
    if let Some(eval) = best(&data.evals) {
        let place = format!("nats per token, at step {}", grouped(eval.step));
        tiles.push(Tile("Best held-out loss", format!("{:.4}", eval.loss), place));
        tiles.push(Tile("Perplexity", number(eval.perplexity), "held-out text".to_owned()));
        tiles.push(Tile("Bits per byte", number(eval.bits_per_byte), "held-out text".to_owned()));
    }
    if let Some(step) = data.steps.iter().rev().find(|step| step.loss.is_finite()) {
        tiles.push(Tile("Last training loss", format!("{:.4}", step.loss), format!("at step {}", grouped(step.step))));
    }
    let seconds: f64 = data.steps.iter().map(|step| step.seconds).filter(|s| s.is_finite()).sum();
    tiles.push(Tile("Time in steps", duration(seconds), String::new()));
    let speeds: Vec<(f64, f64)> = data.steps.iter().map(|step| (0.0, step.tokens_per_second)).collect();
    if let Some(speed) = median(&speeds) {
        let flops = data.run.get("flops_per_token").and_then(Value::as_f64);
        let remark = flops.map_or(String::new(), |flops| format!("{} GFLOP/s", number(flops * speed / 1e9)));
        tiles.push(Tile("Tokens per second", short(speed), remark));
    }
    tiles
}

fn samples(out: &mut String, data: &RunData) {
    out.push_str("<h2>Samples over time</h2>\n");
    if data.samples.is_empty() {
        out.push_str("<p class=\"none\">No samples yet.</p>\n");
        return;
    }
    if data.n_samples > data.samples.len() {
        let _ = writeln!(
            out,
            "<p class=\"none\">{} of {} samples.</p>",
            data.samples.len(),
            grouped(data.n_samples as u64)
        );
    }
    for sample in &data.samples {
        let mut shown: String = sample.text.chars().take(SAMPLE_CHARS).collect();
        if shown.len() < sample.text.len() {
            shown.push_str(" ...");
        }
        let prompt: String = sample.prompt.chars().take(SAMPLE_CHARS).collect();
        let _ = writeln!(
            out,
            "<article class=\"sample\"><h3>Step {}</h3><p dir=\"auto\"><b>{}</b>{}</p></article>",
            grouped(sample.step),
            escape(&prompt),
            escape(&shown)
        );
    }
}

fn evaluations(out: &mut String, evals: &[Eval]) {
    if evals.is_empty() {
        return;
    }
    out.push_str("<h2>Evaluations</h2>\n<div class=\"scroll\" tabindex=\"0\"><table><caption class=\"sr\">Evaluations on held-out text</caption>\
                  <tr><th class=\"n\" scope=\"col\">Step</th><th class=\"n\" scope=\"col\">Tokens</th><th class=\"n\" scope=\"col\">Loss</th>\
                  <th class=\"n\" scope=\"col\">Perplexity</th><th class=\"n\" scope=\"col\">Bits per byte</th></tr>");
    for eval in thinned(evals, 20) {
        let _ = write!(
            out,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.4}</td><td class=\"n\">{}</td><td class=\"n\">{:.3}</td></tr>",
            grouped(eval.step),
            short(eval.tokens as f64),
            eval.loss,
            number(eval.perplexity),
            eval.bits_per_byte
        );
    }
    out.push_str("</table></div>\n");
}

/// At most `most`, evenly, the last among them.
fn thinned<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let every = all.len().div_ceil(most).max(1);
    all.iter().enumerate().filter(move |(i, _)| (all.len() - 1 - i).is_multiple_of(every)).map(|(_, item)| item)
}

fn checkpoints(out: &mut String, data: &RunData) {
    out.push_str("<h2>Checkpoints</h2>\n");
    if data.checkpoints.is_empty() {
        out.push_str("<p class=\"none\">No checkpoint yet.</p>\n");
        return;
    }
    out.push_str("<div class=\"scroll\" tabindex=\"0\"><table><caption class=\"sr\">Checkpoints on disk</caption><tr><th scope=\"col\">Folder</th>\
                  <th class=\"n\" scope=\"col\">Step</th><th class=\"n\" scope=\"col\">Tokens</th><th class=\"n\" scope=\"col\">Held-out loss</th><th scope=\"col\"></th></tr>");
    for checkpoint in &data.checkpoints {
        let _ = write!(
            out,
            "<tr><td><code>checkpoints/{}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&checkpoint.name),
            checkpoint.step.map_or("?".to_owned(), grouped),
            checkpoint.tokens.map_or("?".to_owned(), |tokens| short(tokens as f64)),
            checkpoint.eval_loss.map_or("-".to_owned(), |loss| format!("{loss:.4}")),
            checkpoint.mark
        );
    }
    out.push_str("</table></div>\n");
}

fn manifest(out: &mut String, data: &RunData) {
    out.push_str("<h2>Data</h2>\n");
    let Some(manifest) = &data.data else {
        out.push_str("<p class=\"none\">No data manifest.</p>\n");
        return;
    };
    let _ = write!(
        out,
        "<p>Tokenizer <span class=\"hash\">{}</span>, {} tokens. All data <span class=\"hash\">{}</span>.</p>\n\
         <div class=\"scroll\" tabindex=\"0\"><table><caption class=\"sr\">Shards</caption><tr><th scope=\"col\">Source</th><th scope=\"col\">Split</th>\
         <th class=\"n\" scope=\"col\">Tokens</th><th class=\"n\" scope=\"col\">Documents</th><th class=\"n\" scope=\"col\">Bytes of text</th><th scope=\"col\">Hash</th></tr>",
        escape(&manifest.tokenizer_hash),
        grouped(manifest.n_vocab.into()),
        escape(&manifest.hash())
    );
    for shard in manifest.shards.iter().take(MOST_SHARDS) {
        let _ = write!(
            out,
            "<tr><td class=\"t\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"t hash\">{}</td></tr>",
            escape(&shard.source),
            if shard.split == Split::Train { "training" } else { "held out" },
            grouped(shard.n_tokens),
            grouped(shard.n_documents),
            grouped(shard.text_bytes),
            escape(&shard.hash)
        );
    }
    out.push_str("</table></div>\n");
    if manifest.shards.len() > MOST_SHARDS {
        let _ = writeln!(
            out,
            "<p class=\"none\">The first {MOST_SHARDS} of {} shards; the rest is in data.json.</p>",
            manifest.shards.len()
        );
    }
}

fn memory(out: &mut String, data: &RunData) {
    let Some(items) = data.run.get("memory").and_then(Value::as_array).filter(|items| !items.is_empty()) else {
        return;
    };
    let rows: Vec<(&str, u64)> =
        items.iter().filter_map(|item| Some((item.get("purpose")?.as_str()?, item.get("bytes")?.as_u64()?))).collect();
    out.push_str("<h2>Memory, as planned</h2>\n<div class=\"scroll\" tabindex=\"0\"><table><caption class=\"sr\">Memory by purpose</caption>");
    for (purpose, bytes) in &rows {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td></tr>",
            escape(purpose),
            crate::config::bytes(*bytes)
        );
    }
    let total = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.1));
    let _ = writeln!(
        out,
        "<tr><th scope=\"row\">total</th><td class=\"n\">{}</td></tr></table></div>",
        crate::config::bytes(total)
    );
}

fn settings(out: &mut String, data: &RunData) {
    out.push_str("<h2>Settings</h2>\n<div class=\"settings\">\n");
    for rows in data.config.chunk_by(|a, b| a.0 == b.0) {
        let _ = write!(out, "<table><caption>{}</caption>", escape(&rows[0].0));
        for (_, key, value) in rows {
            let _ =
                write!(out, "<tr><th scope=\"row\">{}</th><td class=\"t\">{}</td></tr>", escape(key), escape(value));
        }
        out.push_str("</table>\n");
    }
    out.push_str("</div>\n");
}
