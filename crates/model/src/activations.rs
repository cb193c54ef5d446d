//! Memory of a training step: what the forward keeps for the backward, and workspaces. One table gives the sizes for
//! both the allocation and the plan.

use verve_ops::Backend;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::plan::PlanItem;
use crate::rope::{RopeTables, rope_tables_len};

/// What the backward computes again instead of keeping it. Every level gives the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing.
    None,
    /// Outputs of the feed-forward activation (cheap: pointwise).
    Activations,
    /// Those and the outputs of the normalisations (cheap: a pass over the rows).
    ActivationsAndNorms,
    /// Whole blocks from their inputs (Chen et al. 2016): a third more work, least memory.
    Blocks,
}

impl Recompute {
    /// All levels, most memory first.
    pub const ALL: [Self; 4] = [Self::None, Self::Activations, Self::ActivationsAndNorms, Self::Blocks];
}

/// Buffers of one kind: one for each layer, or fewer that layers share. Layer `l` uses number `l` modulo their count.
#[derive(Debug)]
pub(crate) struct Slots<T>(Vec<T>);

impl<T> Slots<T> {
    pub(crate) fn at(&self, layer: usize) -> &T {
        &self.0[layer % self.0.len()]
    }

    pub(crate) fn at_mut(&mut self, layer: usize) -> &mut T {
        let count = self.0.len();
        &mut self.0[layer % count]
    }
}

/// One `E` for each buffer of elements, one `A` for each buffer of accumulators, one `I` for each buffer of ids.
pub(crate) struct ActivationTable<E, A, I> {
    /// `[N]`.
    pub tokens: I,
    /// `[N]`.
    pub positions: I,
    /// `[N]`.
    pub targets: I,
    /// Block inputs and the last block's output, `[N, C]`.
    pub residual: Slots<E>,
    /// `[N, C]`.
    pub attn_norm_out: Slots<E>,
    /// `[N, 2]`.
    pub attn_norm_stats: Slots<A>,
    /// Rotated, `[N, (H + 2K) D]`.
    pub qkv: Slots<E>,
    /// `qkv` before its heads were normalised; models that do so only.
    pub qkv_plain: Option<Slots<E>>,
    /// Output of attention, `[N, H D]`.
    pub heads: Slots<E>,
    /// Log-sum-exp of the scores, `[N, H]`.
    pub lse: Slots<A>,
    /// The residual stream between attention and feed-forward layer, `[N, C]`.
    pub residual_mid: Slots<E>,
    /// `[N, C]`.
    pub ffn_norm_out: Slots<E>,
    /// `[N, 2]`.
    pub ffn_norm_stats: Slots<A>,
    /// Of attention and of the feed-forward layer, before it is normalised and added, `[N, C]` each; models that do so
    /// only.
    pub branches: Option<[Slots<E>; 2]>,
    /// `[N, 2]` each.
    pub branch_stats: Option<[Slots<A>; 2]>,
    /// A branch on its way into the residual stream, or the gradient of one, `[N, C]`.
    pub branch: Option<E>,
    /// Gate branch before its activation, `[N, d_ff]`; gated activations only.
    pub ffn_gate: Option<Slots<E>>,
    /// Before the activation, or the linear branch of a gated one, `[N, d_ff]`.
    pub ffn_up: Slots<E>,
    /// What `ffn_down` reads, `[N, d_ff]`.
    pub ffn_act: Slots<E>,
    /// `[N, C]`.
    pub final_norm_out: E,
    /// `[N, 2]`.
    pub final_norm_stats: A,
    /// `[N]`.
    pub losses: A,
    /// Some rows of logits, `[R, V]`.
    pub logits: A,
    /// Gradient of the residual stream, `[N, C]`.
    pub d_residual: E,
    /// Gradient of a normalisation's output, `[N, C]`.
    pub d_norm_out: E,
    /// `[N, H D]`.
    pub d_heads: E,
    /// `[N, (H + 2K) D]`.
    pub d_qkv: E,
    /// `[N, d_ff]`; gated activations only.
    pub d_ffn_gate: Option<E>,
    /// `[N, d_ff]`.
    pub d_ffn_up: E,
}

/// Makes the buffers of an [`ActivationTable`] from the table of their sizes.
trait Make<E, A, I> {
    fn elems(&mut self, purpose: &'static str, len: usize) -> Result<E, ModelError>;
    fn accs(&mut self, purpose: &'static str, len: usize) -> Result<A, ModelError>;
    fn ids(&mut self, len: usize) -> Result<I, ModelError>;
}

const RESIDUAL: &str = "activations: residual stream";
const NORMS: &str = "activations: norms";
const ATTENTION: &str = "activations: attention";
const FFN: &str = "activations: feed-forward";
const LOSS: &str = "loss workspace";
const BACKWARD: &str = "backward workspace";
const TOKENS: &str = "tokens and positions";

/// Elements of the workspace for logits that rows are added to until it is reached, within these bounds: large enough for
/// efficient products, small enough for caches.
const LOGITS_TARGET: usize = 26 << 20;
const LOGITS_ROWS: std::ops::RangeInclusive<usize> = 128..=1024;

impl<E, A, I> ActivationTable<E, A, I> {
    /// The table itself: which buffers there are, how long, how many.
    fn make(
        config: &ModelConfig,
        rows: usize,
        recompute: Recompute,
        make: &mut impl Make<E, A, I>,
    ) -> Result<Self, ModelError> {
        let c = config;
        let layers = c.n_layers;
        // A buffer is shared by all layers from the level on at which the backward computes it again.
        let kept_until = |level: Recompute| if recompute >= level { 1 } else { layers };
        let norms = kept_until(Recompute::ActivationsAndNorms);
        let blocks = kept_until(Recompute::Blocks);
        let acts = kept_until(Recompute::Activations);
        let width = rows * c.d_model;
        let ffn = rows * c.d_ff;
        Ok(Self {
            tokens: make.ids(rows)?,
            positions: make.ids(rows)?,
            targets: make.ids(rows)?,
            residual: slots(layers + 1, || make.elems(RESIDUAL, width))?,
            attn_norm_out: slots(norms, || make.elems(NORMS, width))?,
            attn_norm_stats: slots(blocks, || make.accs(NORMS, rows * 2))?,
            qkv: slots(blocks, || make.elems(ATTENTION, rows * c.qkv_width()))?,
            qkv_plain: (c.qk_norm)
                .then(|| slots(blocks, || make.elems(ATTENTION, rows * c.qkv_width())))
                .transpose()?,
            heads: slots(blocks, || make.elems(ATTENTION, rows * c.heads_width()))?,
            lse: slots(blocks, || make.accs(ATTENTION, rows * c.n_heads))?,
            residual_mid: slots(blocks, || make.elems(RESIDUAL, width))?,
            ffn_norm_out: slots(norms, || make.elems(NORMS, width))?,
            ffn_norm_stats: slots(blocks, || make.accs(NORMS, rows * 2))?,
            branches: match c.post_norms {
                true => {
                    let mut branch = || slots(blocks, || make.elems(NORMS, width));
                    Some([branch()?, branch()?])
                }
                false => None,
            },
            branch_stats: match c.post_norms {
                true => {
                    let mut stats = || slots(blocks, || make.accs(NORMS, rows * 2));
                    Some([stats()?, stats()?])
                }
                false => None,
            },
            branch: c.has_branch_buffer().then(|| make.elems(BACKWARD, width)).transpose()?,
            ffn_gate: c.activation.is_gated().then(|| slots(blocks, || make.elems(FFN, ffn))).transpose()?,
            ffn_up: slots(blocks, || make.elems(FFN, ffn))?,
            ffn_act: slots(acts, || make.elems(FFN, ffn))?,
            final_norm_out: make.elems(NORMS, width)?,
            final_norm_stats: make.accs(NORMS, rows * 2)?,
            losses: make.accs(LOSS, rows)?,
            logits: make.accs(LOSS, logits_rows(c, rows) * c.n_vocab)?,
            d_residual: make.elems(BACKWARD, width)?,
            d_norm_out: make.elems(BACKWARD, width)?,
            d_heads: make.elems(BACKWARD, rows * c.heads_width())?,
            d_qkv: make.elems(BACKWARD, rows * c.qkv_width())?,
            d_ffn_gate: c.activation.is_gated().then(|| make.elems(BACKWARD, ffn)).transpose()?,
            d_ffn_up: make.elems(BACKWARD, ffn)?,
        })
    }
}

/// Rows of logits that are in memory at once.
pub(crate) fn logits_rows(config: &ModelConfig, rows: usize) -> usize {
    (LOGITS_TARGET / config.n_vocab).clamp(*LOGITS_ROWS.start(), *LOGITS_ROWS.end()).min(rows)
}

fn slots<T>(count: usize, mut make: impl FnMut() -> Result<T, ModelError>) -> Result<Slots<T>, ModelError> {
    (0..count).map(|_| make()).collect::<Result<_, _>>().map(Slots)
}

struct Allocate<'a, B>(&'a B);

impl<B: Backend> Make<B::Buf<B::Elem>, B::Buf<B::Acc>, B::Buf<u32>> for Allocate<'_, B> {
    fn elems(&mut self, _: &'static str, len: usize) -> Result<B::Buf<B::Elem>, ModelError> {
        Ok(self.0.alloc(len)?)
    }
    fn accs(&mut self, _: &'static str, len: usize) -> Result<B::Buf<B::Acc>, ModelError> {
        Ok(self.0.alloc(len)?)
    }
    fn ids(&mut self, len: usize) -> Result<B::Buf<u32>, ModelError> {
        Ok(self.0.alloc(len)?)
    }
}

struct Measure {
    items: Vec<PlanItem>,
    sizes: ElementSizes,
}

/// Bytes of one weight or activation, and of one statistic, gradient or moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementSizes {
    /// Of [`Backend::Elem`].
    pub elem: usize,
    /// Of [`Backend::Acc`].
    pub acc: usize,
}

impl ElementSizes {
    /// Those of a backend.
    pub fn of<B: Backend>() -> Self {
        Self { elem: size_of::<B::Elem>(), acc: size_of::<B::Acc>() }
    }
}

impl Measure {
    fn add(&mut self, purpose: &'static str, bytes: usize) {
        match self.items.iter_mut().find(|item| item.purpose == purpose) {
            Some(item) => item.bytes += bytes as u64,
            None => self.items.push(PlanItem { purpose, bytes: bytes as u64 }),
        }
    }
}

impl Make<(), (), ()> for Measure {
    fn elems(&mut self, purpose: &'static str, len: usize) -> Result<(), ModelError> {
        self.add(purpose, len * self.sizes.elem);
        Ok(())
    }
    fn accs(&mut self, purpose: &'static str, len: usize) -> Result<(), ModelError> {
        self.add(purpose, len * self.sizes.acc);
        Ok(())
    }
    fn ids(&mut self, len: usize) -> Result<(), ModelError> {
        self.add(TOKENS, len * size_of::<u32>());
        Ok(())
    }
}

pub(crate) type Table<B> = ActivationTable<
    <B as Backend>::Buf<<B as Backend>::Elem>,
    <B as Backend>::Buf<<B as Backend>::Acc>,
    <B as Backend>::Buf<u32>,
>;

/// Buffers for training on micro-batches of `batch` rows of `seq_len` tokens. Made once; the step allocates nothing.
pub struct Activations<B: Backend> {
    pub(crate) table: Table<B>,
    pub(crate) rope_tables: Option<RopeTables<B>>,
    pub(crate) batch: usize,
    pub(crate) seq_len: usize,
    pub(crate) recompute: Recompute,
    /// Host copy of the losses, `[N]`.
    pub(crate) host_losses: Vec<B::Acc>,
}

impl<B: Backend> Activations<B> {
    /// Allocates.
    ///
    /// # Errors
    /// Out of memory; a `seq_len` above the configuration's `n_ctx`; an empty batch.
    pub fn new(
        backend: &B,
        config: &ModelConfig,
        batch: usize,
        seq_len: usize,
        recompute: Recompute,
    ) -> Result<Self, ModelError> {
        check_sizes(config, batch, seq_len)?;
        let rows = batch * seq_len;
        let mut table: Table<B> = ActivationTable::make(config, rows, recompute, &mut Allocate(backend))?;
        let positions: Vec<u32> = (0..batch).flat_map(|_| 0..seq_len as u32).collect();
        backend.upload(&positions, &mut table.positions);
        Ok(Self {
            table,
            rope_tables: RopeTables::new(backend, config, seq_len)?,
            batch,
            seq_len,
            recompute,
            host_losses: vec![B::Acc::default(); rows],
        })
    }

    /// Rows of a micro-batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens in a row.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Losses of the last call, nats, `[batch, seq_len]`; 0 where the target was ignored.
    pub fn losses(&self) -> &[B::Acc] {
        &self.host_losses
    }
}

fn check_sizes(config: &ModelConfig, batch: usize, seq_len: usize) -> Result<(), ModelError> {
    if seq_len == 0 || seq_len > config.n_ctx {
        return Err(ModelError::BatchSize { what: "tokens in a training row", found: seq_len, limit: config.n_ctx });
    }
    if batch == 0 || batch.saturating_mul(seq_len) > u32::MAX as usize {
        let limit = u32::MAX as usize / seq_len;
        return Err(ModelError::BatchSize { what: "rows in a micro-batch (at least 1)", found: batch, limit });
    }
    Ok(())
}

/// Bytes that [`Activations::new`] would allocate, by purpose.
///
/// # Errors
/// As [`Activations::new`], but for memory.
pub fn activation_bytes(
    config: &ModelConfig,
    batch: usize,
    seq_len: usize,
    recompute: Recompute,
    sizes: ElementSizes,
) -> Result<Vec<PlanItem>, ModelError> {
    check_sizes(config, batch, seq_len)?;
    let mut measure = Measure { items: Vec::new(), sizes };
    ActivationTable::make(config, batch * seq_len, recompute, &mut measure)?;
    measure.add(ATTENTION, rope_tables_len(config, seq_len) * sizes.acc);
    Ok(measure.items)
}
