use std::fmt::Write;
use std::fs;

use super::chart::{decimate, smooth};
use super::html::{escape, number};
use super::*;

const CONFIG: &str = "[budget]\nsteps = 1000\n[run]\nseed = 5\ndtype = \"bf16\"\n[model]\nn_layers = 4\n";

fn run_of(files: &[(&str, &str)]) -> (tempfile::TempDir, String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let out = folder.path().join("report.html");
    let warnings = write(folder.path(), &out).unwrap();
    let page = fs::read_to_string(out).unwrap();
    assert_closed(&page);
    (folder, page, warnings)
}

/// Every tag that must be closed is, in order, and nothing outside is asked for.
fn assert_closed(page: &str) {
    let body = &page[page.find("<body>").unwrap()..page.rfind("<script>").unwrap()];
    let mut open = Vec::new();
    for tag in body.split('<').skip(1) {
        let tag = &tag[..tag.find('>').expect("a tag ends")];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') {
            open.push(tag.split([' ', '\n']).next().unwrap());
        }
    }
    assert_eq!(open, ["body", "main"].iter().take(open.len()).copied().collect::<Vec<_>>());
    for outside in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

fn steps(count: u64) -> String {
    (1..=count).fold(String::new(), |mut text, i| {
        let loss = 3.0 + 4.0 * (-(i as f64) / 200.0).exp();
        writeln!(text, r#"{{"kind":"step","step":{i},"tokens":{},"loss":{loss},"lr":0.001,"grad_norm":1.5,"tokens_per_second":12000.0,"seconds":0.3}}"#, i * 4096).unwrap();
        text
    })
}

#[test]
fn a_folder_without_a_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(folder.path(), &folder.path().join("x.html")).unwrap_err();
    assert!(matches!(error, crate::TrainError::NoRun { .. }), "{error}");
    assert!(!folder.path().join("x.html").exists());
}

#[test]
fn a_run_that_has_just_begun() {
    let (_folder, page, warnings) = run_of(&[("config.toml", CONFIG)]);
    assert!(
        page.contains("step 0 of 1,000 (0%)") && page.contains("No values yet.") && page.contains("No samples yet.")
    );
    assert_eq!(warnings, ["there is no metrics.jsonl yet", "there is no samples.jsonl yet"]);
    let (_folder, page, _) = run_of(&[("config.toml", CONFIG), ("metrics.jsonl", &steps(1))]);
    assert!(page.contains("step 1 of 1,000") && page.contains("<circle"), "one step is a dot");
}

#[test]
fn a_whole_run() {
    let mut metrics = steps(1000);
    for (step, loss) in [(0, 7.0), (500, 3.25), (1000, 3.5)] {
        writeln!(
            metrics,
            r#"{{"kind":"eval","step":{step},"tokens":{},"loss":{loss},"perplexity":{},"bits_per_byte":1.75}}"#,
            step * 4096,
            f64::exp(loss)
        )
        .unwrap();
    }
    let (_folder, page, warnings) = run_of(&[
        ("config.toml", CONFIG),
        ("metrics.jsonl", &metrics),
        ("samples.jsonl", "{\"step\":500,\"tokens\":1,\"prompt\":\"The \",\"text\":\"cat\"}\n"),
        (
            "run.json",
            r#"{"code_version":"abc123","backend":"cpu avx2","n_params":1234567,"flops_per_token":7e6,"memory":[{"purpose":"weights","bytes":2048}]}"#,
        ),
        ("checkpoints/index.json", r#"{"last":"step-00001000","best":"step-00000500","best_loss":3.25}"#),
        ("checkpoints/step-00000500/state.json", r#"{"step":500,"tokens":2048000,"eval_loss":3.25}"#),
        ("checkpoints/step-00001000/state.json", r#"{"step":1000,"tokens":4096000,"eval_loss":null}"#),
        ("checkpoints/step-00001001.tmp/state.json", "{"),
    ]);
    assert_eq!(warnings, [""; 0]);
    for part in [
        "finished: 1,000 steps",
        "abc123",
        "cpu avx2",
        "1,234,567",
        "4.1M",
        "3.2500",
        "25.8",
        "1.75",
        "84 GFLOP/s",
        "<b>The </b>cat",
        "checkpoints/step-00000500",
        "2.0 KiB",
        "<th scope=\"row\">seed</th><td class=\"t\">5</td>",
        "5 min 00 s",
        "lowest held-out loss</th><td>3.25 at step 500",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("step-00001001"));
    for element in ["<title id=\"loss-t\"", "<desc id=\"loss-d\"", "prefers-color-scheme:dark", "viewport"] {
        assert!(page.contains(element), "{element}");
    }
}

#[test]
fn odd_lines_do_not_keep_the_rest_from_being_shown() {
    let mut metrics = steps(30);
    metrics.push_str("{\"kind\":\"step\",\"step\":31,\"tokens\":1,\"loss\":null,\"lr\":0.001,\"grad_norm\":null}\n");
    metrics.push_str("nonsense\n{\"kind\":\"other\",\"step\":3}\n\n");
    metrics.push_str(&steps(40).lines().last().unwrap()[..50]);
    let (_folder, page, warnings) = run_of(&[
        ("config.toml", "this is = not [ toml"),
        ("metrics.jsonl", &metrics),
        ("samples.jsonl", "{\"step\":1}\n"),
        ("data.json", "{\"tokenizer_hash\":5}"),
        ("run.json", "{"),
        ("checkpoints/index.json", "[]"),
    ]);
    assert!(
        warnings.iter().any(|w| w == "1 lines of metrics.jsonl cannot be read and are left out, the first is line 32"),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(page.contains("31 steps so far") && !page.contains("NaN"));
}

#[test]
fn text_from_the_run_cannot_become_markup() {
    let evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\\\"'&\\u202e\\u0000";
    let sample = format!("{{\"step\":1,\"prompt\":\"{evil}\",\"text\":\"{evil}\"}}\n");
    let data = format!(
        r#"{{"tokenizer_hash":"{evil}","n_vocab":512,"end_of_text":0,"shards":[{{"path":"p","split":"train","n_tokens":5,"n_documents":1,"text_bytes":9,"hash":"{evil}","source":"{evil}"}}]}}"#
    );
    let run = format!(r#"{{"code_version":"{evil}","backend":"{evil}","memory":[{{"purpose":"{evil}","bytes":1}}]}}"#);
    let config = format!("[\"<b>&\"]\n\"<i>\" = \"{}\"\n", evil.replace("\\u0000", ""));
    let (_folder, page, warnings) = run_of(&[
        ("config.toml", &config),
        ("samples.jsonl", &sample),
        ("data.json", &data),
        ("run.json", &run),
        ("metrics.jsonl", ""),
    ]);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(page.matches("<script").count(), 1);
    assert!(!page.contains("<img") && !page.contains("<i>") && !page.contains('\u{202e}') && !page.contains('\0'));
    assert!(page.contains("&lt;img src=x onerror=alert(2)&gt;&quot;&#39;&amp;"));
}

#[test]
fn a_long_run_makes_a_small_page() {
    let (_folder, page, _) =
        run_of(&[("config.toml", CONFIG), ("metrics.jsonl", &steps(100_000)), ("samples.jsonl", "")]);
    assert!(page.len() < 600_000, "{} bytes", page.len());
    let many = (0..1000).fold(String::new(), |text, i| text + &format!("{{\"step\":{i},\"text\":\"t{i}.\"}}\n"));
    let (_folder, page, _) = run_of(&[("config.toml", CONFIG), ("samples.jsonl", &many)]);
    assert!(page.contains("24 of 1,000 samples") && page.contains(">t0.") || page.contains("t0.<"));
    assert!(page.contains("t999.<"));
}

#[test]
fn decimation_keeps_every_extreme() {
    let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (58.0 + i as f64 * 648.0 / 1e5, (i % 7) as f64)).collect();
    points[51_234].1 = 1e9;
    points[77_777].1 = -1e9;
    let kept = decimate(&points);
    assert!(kept.len() <= 4 * 720);
    assert!(kept.contains(&points[51_234]) && kept.contains(&points[77_777]));
    assert_eq!((kept[0], *kept.last().unwrap()), (points[0], *points.last().unwrap()));
    assert!(kept.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    assert_eq!(decimate(&points[..100]), points[..100]);
}

#[test]
fn smoothing_has_no_bias_at_the_beginning_and_skips_what_is_not_finite() {
    let constant: Vec<(f64, f64)> = (0..50).map(|i| (i as f64, 3.0)).collect();
    assert!(smooth(&constant, 20.0).iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
    let gap = smooth(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0)], 5.0);
    assert!(gap[1].1.is_nan() && gap[2].1 == 1.0);
    assert_eq!(smooth(&[(0.0, 1.0), (1.0, 5.0)], 1.0), [(0.0, 1.0), (1.0, 5.0)]);
}

#[test]
fn numbers_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (3.25, "3.25"),
        (-2.0, "-2"),
        (100.0, "100"),
        (250.04, "250"),
        (12_345.0, "12.3k"),
        (2e6, "2M"),
        (0.0006, "6e-4"),
        (0.05, "0.05"),
        (f64::NAN, "not a number"),
    ] {
        assert_eq!(number(value), text);
    }
    assert_eq!(escape("a<b>&\"'\u{7}\n"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}\n");
}
