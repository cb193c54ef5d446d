//! Whether two models on disk compute the same.

use verve_ops::quant::ActivationPrecision;
use verve_ops::{InferBackend, KV_BLOCK, KvFormat, Real};

use super::ModelFile;
use crate::error::ModelError;
use crate::infer::{InferStep, KvCache, StepBatch, StepLimits, infer_step};
use crate::infer_weights::InferWeights;

/// How weights in blocks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// They stay in blocks, as for generation.
    Blocks,
    /// They become numbers, so that all formats are computed with in the same way.
    Numbers,
}

/// Logits behind each of `tokens`, the first at position 0: `[tokens, n_vocab]`.
///
/// # Errors
/// Out of memory; more tokens than the context or than a KV block; ids outside the vocabulary.
pub fn logits<B: InferBackend>(
    backend: &B,
    model: &ModelFile,
    reading: Reading,
    tokens: &[u32],
) -> Result<Vec<B::Acc>, ModelError> {
    let config = model.config();
    let (rows, limit) = (tokens.len(), config.n_ctx.min(KV_BLOCK));
    if rows == 0 || rows > limit {
        return Err(ModelError::BatchSize { what: "tokens", found: rows, limit });
    }
    let weights = match reading {
        Reading::Blocks => model.infer_weights(backend, ActivationPrecision::Exact)?,
        Reading::Numbers => {
            let mut host: Vec<B::Elem> = Vec::new();
            InferWeights::build(backend, config, |spec, buffer| {
                host.clear();
                host.resize(spec.len(), B::Elem::default());
                model.read(spec, &mut host)?;
                backend.upload(&host, buffer);
                Ok(())
            })?
        }
    };
    let limits = StepLimits { max_rows: rows, max_sequences: 1, max_blocks: 1 };
    let mut workspace = InferStep::new(backend, config, limits)?;
    let mut cache = KvCache::new(backend, config, 1, KvFormat::Elem)?;
    let positions: Vec<u32> = (0..rows as u32).collect();
    let batch = StepBatch {
        tokens,
        positions: &positions,
        slots: &positions,
        sequences: &vec![0; rows],
        block_table: &[0],
        max_blocks: 1,
        output_rows: &positions,
    };
    Ok(infer_step(backend, config, &weights, &mut cache, &batch, &mut workspace)?.to_vec())
}

/// How much the distributions of the next token differ, on average over the rows: Kullback-Leibler divergence of `b` from
/// `a` in nats. 0 for the same logits.
///
/// # Panics
/// For rows of different lengths.
pub fn divergence<T: Real>(a: &[T], b: &[T], n_vocab: usize) -> f64 {
    assert!(a.len() == b.len(), "{} logits against {}", a.len(), b.len());
    let log_sum = |row: &[T]| {
        let most = row.iter().map(|x| x.to_f64()).fold(f64::NEG_INFINITY, f64::max);
        most + row.iter().map(|x| (x.to_f64() - most).exp()).sum::<f64>().ln()
    };
    let of_row = |(a, b): (&[T], &[T])| -> f64 {
        let (log_a, log_b) = (log_sum(a), log_sum(b));
        let terms = a.iter().zip(b).map(|(a, b)| (a.to_f64() - log_a, b.to_f64() - log_b));
        terms.map(|(a, b)| a.exp() * (a - b)).sum()
    };
    let rows = (a.len() / n_vocab).max(1) as f64;
    a.chunks_exact(n_vocab).zip(b.chunks_exact(n_vocab)).map(of_row).sum::<f64>() / rows
}

/// The largest difference of two rows of logits, and the largest magnitude of the first.
///
/// # Panics
/// For rows of different lengths.
pub fn largest_difference<T: Real>(a: &[T], b: &[T]) -> (f64, f64) {
    assert!(a.len() == b.len(), "{} logits against {}", a.len(), b.len());
    let worst = |most: f64, x: f64| if x.is_nan() || x > most { x } else { most };
    let difference = a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).abs()).fold(0.0, worst);
    (difference, a.iter().map(|a| a.to_f64().abs()).fold(0.0, worst))
}

#[cfg(test)]
mod tests {
    use super::{divergence, largest_difference};

    #[test]
    fn differences_and_divergences() {
        let (a, b) = ([0.0f64, 0.0, 1.0, 3.0], [0.0f64, 1.0, 1.0, 3.0]);
        assert_eq!(largest_difference(&a, &b), (1.0, 3.0));
        assert!(largest_difference(&a, &[0.0, f64::NAN, 0.0, 0.0]).0.is_nan());
        assert_eq!(divergence(&a, &a, 2), 0.0);
        // ln 2 rows: 1/2 ln(1/2 / p) + 1/2 ln(1/2 / q) with p = 1 / (1 + e), and a row without difference.
        let (p, q) = (1.0 / (1.0 + 1f64.exp()), 1f64.exp() / (1.0 + 1f64.exp()));
        let expected = 0.5 * ((0.5 / p).ln() + (0.5 / q).ln()) / 2.0;
        assert!((divergence(&a, &b, 2) - expected).abs() < 1e-12);
    }
}
