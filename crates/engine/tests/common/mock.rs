//! A mock model that computes nothing but sees everything: a row's logits are a hash of the tokens that its block table
//! leads to, so that a wrong slot, position, block or sequence changes the answer.

use std::sync::Arc;

use verve_engine::*;
use verve_model::{StepBatch, StepLimits};
use verve_ops::KV_BLOCK;

use super::{Chosen, Record, records};

pub const N_VOCAB: usize = 12;
/// More rows than ids, as models have.
pub const N_ROWS: usize = 14;
/// Ends a text and starts one.
pub const END: u32 = 11;

/// Pieces of characters, characters, and one with a stop string inside.
pub fn vocabulary() -> Vocabulary {
    let tokens: [&[u8]; N_VOCAB] =
        [b"a", b"b", b"ab", "é".as_bytes(), b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b" ", b"b a", b"", b""];
    Vocabulary::from_bytes(tokens).with_end_of_text([END]).with_start(Some(END)).with_excluded([10])
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The logits after these tokens.
pub fn logits_after(tokens: &[u32]) -> Vec<f64> {
    let key = tokens.iter().fold(1, |key, &id| mix(key ^ u64::from(id) << 8));
    let logit = |row: u64| (mix(key ^ row) % 64) as f64 / 8.0 - if row == u64::from(END) { 4.0 } else { 0.0 };
    let mut logits: Vec<f64> = (0..N_ROWS as u64).map(logit).collect();
    if tokens.ends_with(POISON) {
        logits[5] = f64::NAN;
    }
    logits
}

/// The hidden state after these tokens.
pub fn hidden_after(tokens: &[u32]) -> [f32; 3] {
    let key = tokens.iter().fold(2, |key, &id| mix(key ^ u64::from(id) << 8));
    [0, 1, 2].map(|at| (mix(key ^ at) % 1000) as f32 / 300.0)
}

/// After these tokens the model breaks down.
pub const POISON: &[u32] = &[7, 7, 7];

pub struct Mock {
    pub n_ctx: usize,
    pub limits: StepLimits,
    /// Token in each place of the cache.
    cache: Vec<u32>,
    logits: Vec<f64>,
    /// Fails in this step.
    pub fails_at: Option<usize>,
    pub steps: usize,
    hidden: Vec<f32>,
    row_tokens: Vec<Vec<u32>>,
}

impl Mock {
    pub fn new(n_ctx: usize, max_rows: usize, max_sequences: usize, n_blocks: usize) -> Self {
        let limits = StepLimits { max_rows, max_sequences, max_blocks: n_ctx.div_ceil(KV_BLOCK) };
        let cache = vec![u32::MAX; n_blocks * KV_BLOCK];
        Self {
            n_ctx,
            limits,
            cache,
            logits: Vec::new(),
            fails_at: None,
            steps: 0,
            hidden: Vec::new(),
            row_tokens: Vec::new(),
        }
    }

    pub fn run(&mut self, requests: &[Request]) -> Vec<Record> {
        let vocabulary = vocabulary();
        records(requests.len(), |cancel, on_event| {
            generate(self, &Batch { requests, vocabulary: &vocabulary, cancel }, on_event)
        })
    }
}

impl StepModel for Mock {
    type Logit = f64;

    fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    fn n_vocab(&self) -> usize {
        N_ROWS
    }

    fn n_blocks(&self) -> usize {
        self.cache.len() / KV_BLOCK
    }

    fn limits(&self) -> StepLimits {
        self.limits
    }

    fn step(&mut self, batch: &StepBatch<'_>) -> Result<&[f64], EngineError> {
        self.steps += 1;
        if self.fails_at == Some(self.steps) {
            let broken = verve_ops::BackendError::Device { device: "mock".to_owned(), detail: "asked to".to_owned() };
            return Err(verve_model::ModelError::from(broken).into());
        }
        let rows = batch.tokens.len();
        assert!(rows > 0 && rows <= self.limits.max_rows);
        assert_eq!(batch.block_table.len(), self.limits.max_sequences * batch.max_blocks);
        for (&slot, &token) in batch.slots.iter().zip(batch.tokens) {
            self.cache[slot as usize] = token;
        }
        self.logits.clear();
        self.row_tokens.clear();
        for row in 0..rows {
            let (sequence, position) = (batch.sequences[row] as usize, batch.positions[row] as usize);
            assert!(position < self.n_ctx);
            let place = |p: usize| {
                batch.block_table[sequence * batch.max_blocks + p / KV_BLOCK] as usize * KV_BLOCK + p % KV_BLOCK
            };
            let tokens: Vec<u32> = (0..=position).map(|p| self.cache[place(p)]).collect();
            self.row_tokens.push(tokens);
        }
        for &row in batch.output_rows {
            self.logits.extend(logits_after(&self.row_tokens[row as usize]));
        }
        Ok(&self.logits)
    }

    fn hidden(&mut self, rows: &[u32]) -> Result<&[f32], EngineError> {
        self.hidden.clear();
        for &row in rows {
            self.hidden.extend(hidden_after(&self.row_tokens[row as usize]));
        }
        Ok(&self.hidden)
    }
}

/// What a request is to get, computed in the plainest way.
pub fn expected(request: &Request, n_ctx: usize) -> Record {
    let vocabulary = vocabulary();
    let prompt = if request.prompt.is_empty() { vec![END] } else { request.prompt.clone() };
    if let Some(pooling) = request.embed {
        return expected_embedding(&prompt, pooling);
    }
    if request.beams.is_some() {
        return alone(request, n_ctx);
    }
    let n_choices = if request.params.max_tokens == 0 { 0 } else { request.n.max(request.best_of) };
    let mut answers = Vec::new();
    for choice in 0..n_choices {
        let record = expected_answer(request, choice, n_ctx);
        if record.error.is_some() {
            return record;
        }
        answers.push(record);
    }
    if n_choices > request.n {
        let likelihood = |record: &Record| {
            let sum: f64 = record.tokens.iter().map(|t| f64::from(f32::from_bits(t.logprob.expect("asked for")))).sum();
            sum / record.tokens.len() as f64
        };
        answers.sort_by(|a, b| likelihood(b).total_cmp(&likelihood(a)));
        answers.truncate(request.n);
        if request.params.n_logprobs.is_none() {
            answers.iter_mut().flat_map(|answer| &mut answer.tokens).for_each(|token| token.logprob = None);
        }
    }
    if answers.is_empty() {
        let reason = FinishReason::Length;
        let finish =
            Finish { reason, n_prompt: prompt.len(), n_cached: 0, n_generated: 0, n_discarded: 0, score: None };
        answers.push(Record { finish: Some(finish), ..Record::default() });
    }
    let mut record = answers.remove(0);
    record.more = answers;
    if let Some(n) = request.prompt_logprobs {
        record.prompt.push(Chosen { id: prompt[0], ..Chosen::default() });
        let mut sampler = Sampler::new(&vocabulary);
        for at in 1..prompt.len() {
            match sampler.logprobs_of(&logits_after(&prompt[..at]), prompt[at], n) {
                Ok((logprob, alternatives)) => record.prompt.push(Chosen {
                    id: prompt[at],
                    text: String::new(),
                    logprob: Some(logprob.to_bits()),
                    alternatives: alternatives.iter().map(|t| (t.id, t.logprob.to_bits())).collect(),
                }),
                Err(error) => return Record { error: Some(error.to_string()), ..Record::default() },
            }
        }
    }
    record
}

/// What the core gives a request that is alone, all of it in the cache at once, nothing found there.
fn alone(request: &Request, n_ctx: usize) -> Record {
    let vocabulary = vocabulary();
    let options = CoreOptions { max_prompt_rows: 1000, max_outputs: 1000, share_prefixes: false };
    let mut core = Core::new(Mock::new(n_ctx, 1000, 16, 200), &vocabulary, options).expect("good options");
    records(1, |cancel, on_event| core.answer_all(std::slice::from_ref(request), cancel, on_event)).remove(0)
}

fn expected_embedding(prompt: &[u32], pooling: Pooling) -> Record {
    let n = prompt.len();
    let first = if pooling == Pooling::Last { n } else { 1 };
    let mut sums = [0.0f64; 3];
    for end in first..=n {
        for (sum, x) in sums.iter_mut().zip(hidden_after(&prompt[..end])) {
            *sum += f64::from(x);
        }
    }
    let finish =
        Finish { reason: FinishReason::Length, n_prompt: n, n_cached: 0, n_generated: 0, n_discarded: 0, score: None };
    let embedding = sums.iter().map(|sum| ((sum / (n - first + 1) as f64) as f32).to_bits()).collect();
    Record { embedding, finish: Some(finish), ..Record::default() }
}

fn expected_answer(request: &Request, choice: usize, n_ctx: usize) -> Record {
    let vocabulary = vocabulary();
    let recorded = request.best_of > request.n && request.params.n_logprobs.is_none();
    let n_logprobs = if recorded { Some(0) } else { request.params.n_logprobs };
    let seed = request.params.seed.wrapping_add(choice as u64);
    let params = &SamplingParams { seed, n_logprobs, ..request.params.clone() };
    let prompt = if request.prompt.is_empty() { vec![END] } else { request.prompt.clone() };
    let mut tokens = prompt.clone();
    let mut record = Record::default();
    let mut sampler = Sampler::new(&vocabulary);
    let mut text = TextStream::new(Arc::new(StopSet::new(&params.stop)));
    let mut history = History::new(params, &prompt);
    let reason = loop {
        let n_generated = tokens.len() - prompt.len();
        let logits = logits_after(&tokens);
        let sampled = match sampler.sample(&logits, params, &history, &draws(params.seed), n_generated, None) {
            Ok(sampled) => sampled,
            Err(error) => {
                record.error = Some(error.to_string());
                return record;
            }
        };
        history.push(sampled.id, sampled.surprise);
        let ends = sampled.id == END && !params.ignore_eos;
        let piece = text.push(if ends { b"" } else { vocabulary.bytes(sampled.id) });
        let alternatives = sampled.alternatives.iter().map(|t| (t.id, t.logprob.to_bits())).collect();
        let (text, logprob) = (piece.text.to_owned(), sampled.logprob.map(f32::to_bits));
        record.tokens.push(Chosen { id: sampled.id, text, logprob, alternatives });
        tokens.push(sampled.id);
        if piece.stopped {
            break FinishReason::Stop;
        } else if ends {
            break FinishReason::EndOfText;
        } else if n_generated + 1 == params.max_tokens || tokens.len() == n_ctx + 1 {
            break FinishReason::Length;
        }
    };
    let piece = text.finish();
    record.last_text = piece.text.to_owned();
    let reason = if piece.stopped { FinishReason::Stop } else { reason };
    record.finish = Some(Finish {
        reason,
        n_prompt: prompt.len(),
        n_cached: 0,
        n_generated: record.tokens.len(),
        n_discarded: 0,
        score: None,
    });
    record
}
