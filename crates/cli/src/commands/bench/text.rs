//! The tokenizer jobs.

use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;
use verve_corpus::read::{ReadOptions, TextReader, find_files};
use verve_tokenizer::Tokenizer;
use verve_tokenizer::train::{TrainOptions, Trainer};

use super::{Bench, Figure, median};
use crate::args::BenchArgs;
use crate::commands::sample_text;
use crate::commands::text::Text;

/// Bytes of text that are used at most.
const MAX_BYTES: usize = 20 << 20;
/// Vocabulary of the training job, and of the encoder where no tokenizer is given.
const TRAIN_VOCAB: usize = 8_192;
const ENCODE_VOCAB: usize = 50_257;
const ROUNDS: usize = 5;

/// The text, up to [`MAX_BYTES`], as documents.
fn documents(args: &BenchArgs) -> Result<Vec<String>> {
    let text = match &args.text {
        Some(path) => Text { inputs: vec![path.clone()], read: ReadOptions::default() },
        None => sample_text::find().text,
    };
    let found = find_files(&text.inputs, &text.read)?;
    let reader = TextReader::new(&found.files, &text.read)?;
    let (mut documents, mut bytes) = (Vec::new(), 0);
    for piece in reader {
        let piece = piece?.text.to_string();
        bytes += piece.len();
        documents.push(piece);
        if bytes >= MAX_BYTES {
            break;
        }
    }
    if bytes == 0 {
        bail!("there is no text to measure with: give some with --text FILE");
    }
    Ok(documents)
}

fn train(documents: &[String], n_vocab: usize) -> Result<Tokenizer> {
    let mut trainer = Trainer::new(TrainOptions { n_vocab, ..TrainOptions::default() })?;
    for document in documents {
        trainer.push(document);
    }
    Ok(trainer.finish()?.0)
}

/// Encoding on one thread.
pub fn encode(bench: &Bench, args: &BenchArgs) -> Result<()> {
    let documents = documents(args)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::load(path)?,
        None => train(&documents, ENCODE_VOCAB)?,
    };
    let bytes: usize = documents.iter().map(String::len).sum();
    let mut ids = Vec::new();
    let mut rates = Vec::new();
    let mut tokens = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        tokens = 0;
        for document in &documents {
            ids.clear();
            tokenizer.encode_into(document, &mut ids);
            tokens += ids.len();
        }
        rates.push(bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
    }
    bench.print(Figure {
        job: "encode-gpt2",
        value: median(rates),
        unit: "MB/s",
        share: None,
        more: json!({ "bytes": bytes, "tokens": tokens, "n_vocab": tokenizer.n_vocab(), "rounds": ROUNDS, "encode_threads": 1 }),
    })
}

/// Training a vocabulary.
pub fn bpe_train(bench: &Bench, args: &BenchArgs) -> Result<()> {
    let documents = documents(args)?;
    let bytes: usize = documents.iter().map(String::len).sum();
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        train(&documents, TRAIN_VOCAB)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    bench.print(Figure {
        job: "bpe-train",
        value: median(seconds),
        unit: "seconds",
        share: None,
        more: json!({ "bytes": bytes, "n_vocab": TRAIN_VOCAB, "rounds": 3 }),
    })
}
