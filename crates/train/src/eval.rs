//! Loss on held-out text.

use verve_model::{Activations, Network, forward_loss};
use verve_ops::Backend;
use verve_shard::{ShardSet, Split};

use crate::error::Result;
use crate::metrics::EvalRecord;
use crate::step::RowBuffer;

/// Evaluates on the same held-out rows every time.
pub(crate) struct Evaluator {
    rows: RowBuffer,
    /// Rows of an evaluation.
    count: u64,
    /// Rows there are.
    total: u64,
    bytes_per_token: f64,
}

impl Evaluator {
    /// `count` rows spread evenly over the held-out text; `None` for none.
    pub fn new(shards: &ShardSet, count: u64, micro_batch: usize, n_ctx: usize) -> Result<Option<Self>> {
        if count == 0 {
            return Ok(None);
        }
        let bytes_per_token = shards.bytes_per_token(Split::HeldOut).unwrap_or(f64::NAN);
        let total = shards.n_held_out_rows(n_ctx)?;
        Ok(Some(Self { rows: RowBuffer::new(micro_batch, n_ctx), count: count.min(total), total, bytes_per_token }))
    }

    /// Micro-batches of an evaluation.
    pub fn micro_batches(&self, micro_batch: usize) -> u64 {
        self.count.div_ceil(micro_batch as u64)
    }

    /// Mean loss over all tokens of the rows. Uses the buffers of training between two steps, and changes no weight.
    pub fn run<B: Backend>(
        &mut self,
        net: Network<'_, B>,
        acts: &mut Activations<B>,
        shards: &ShardSet,
        (step, tokens): (u64, u64),
    ) -> Result<EvalRecord> {
        let (mut sum, mut targets) = (0.0, 0);
        let mut next = 0;
        while next < self.count {
            let used = (self.count - next).min(acts.batch() as u64);
            let loss = self.micro_batch(net, acts, shards, next, used as usize)?;
            sum += loss.0;
            targets += loss.1;
            next += used;
        }
        let loss = sum / targets as f64;
        let bits_per_byte = loss / std::f64::consts::LN_2 / self.bytes_per_token;
        Ok(EvalRecord { step, tokens, loss, perplexity: loss.exp(), bits_per_byte })
    }

    /// Sum of the losses and number of targets of `used` rows, from the evaluation's row `first` on.
    pub fn micro_batch<B: Backend>(
        &mut self,
        net: Network<'_, B>,
        acts: &mut Activations<B>,
        shards: &ShardSet,
        first: u64,
        used: usize,
    ) -> Result<(f64, usize)> {
        let n_ctx = acts.seq_len();
        for (index, row) in (first..).zip(self.rows.ids.chunks_exact_mut(n_ctx + 1).take(used)) {
            let place = u128::from(index) * u128::from(self.total) / u128::from(self.count);
            shards.held_out_rows(n_ctx, place as u64, row)?;
        }
        let loss = forward_loss(net, acts, self.rows.batch(used))?;
        Ok((loss.sum, loss.targets))
    }
}
