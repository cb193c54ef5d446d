//! Generation: prepared weights, the KV cache, and one step over a ragged batch of prefill and decode rows.

use verve_ops::args::*;
use verve_ops::{Backend, InferBackend, KV_BLOCK, KvFormat, KvLayer, KvShape, LinearShape, Real};

use crate::activations::ElementSizes;
use crate::config::{ModelConfig, Residual};
use crate::error::ModelError;
use crate::forward::*;
use crate::infer_weights::{InferTensor, InferWeights, WeightFormats};
use crate::network::{self, Forward};
use crate::params::{LinearParams, NormParams, Params};
use crate::plan::PlanItem;
use crate::rope::{RopeTables, rope_shape, rope_tables_len};

type Elems<B> = <B as Backend>::Buf<<B as Backend>::Elem>;
type Accs<B> = <B as Backend>::Buf<<B as Backend>::Acc>;
type Ids<B> = <B as Backend>::Buf<u32>;

/// Keys and values of every layer, in blocks of [`KV_BLOCK`] tokens. Which block belongs to which sequence is the
/// caller's business.
pub struct KvCache<B: Backend> {
    layers: Vec<KvLayer<B>>,
    shape: KvShape,
}

impl<B: Backend> KvCache<B> {
    /// Room for `n_blocks` blocks in every layer.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(backend: &B, config: &ModelConfig, n_blocks: usize, format: KvFormat) -> Result<Self, ModelError> {
        let shape = kv_shape(config, n_blocks);
        let layers = (0..config.n_layers).map(|_| KvLayer::new(backend, &shape, format)).collect::<Result<_, _>>()?;
        Ok(Self { layers, shape })
    }

    /// Blocks in the cache.
    pub fn n_blocks(&self) -> usize {
        self.shape.n_blocks
    }

    /// Bytes that a cache of `n_blocks` blocks takes, all layers together.
    pub fn bytes(config: &ModelConfig, n_blocks: usize, format: KvFormat) -> usize {
        config.n_layers * KvLayer::<B>::bytes(&kv_shape(config, n_blocks), format)
    }
}

fn kv_shape(config: &ModelConfig, n_blocks: usize) -> KvShape {
    KvShape { n_blocks, n_kv_heads: config.n_kv_heads, d_head: config.d_head }
}

/// The most that one step may be asked for; sizes the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Rows (new tokens) of a step.
    pub max_rows: usize,
    /// Sequences in a step.
    pub max_sequences: usize,
    /// Blocks of one sequence: its longest length is `max_blocks * KV_BLOCK`, or `n_ctx` if that is less.
    pub max_blocks: usize,
}

/// One step's work: new tokens of any mix of sequences. Rows of one sequence lie side by side in increasing position.
#[derive(Debug, Clone, Copy)]
pub struct StepBatch<'a> {
    /// `[rows]`: token ids.
    pub tokens: &'a [u32],
    /// `[rows]`: position of each token in its sequence; it sees positions `0..=position`, which must be in the cache
    /// or in this step.
    pub positions: &'a [u32],
    /// `[rows]`: where the token's keys and values go: block number x [`KV_BLOCK`] + place in the block. No slot twice.
    pub slots: &'a [u32],
    /// `[rows]`: index of the token's sequence in `block_table`.
    pub sequences: &'a [u32],
    /// `[n_sequences, max_blocks]`: the blocks of each sequence; unused places may hold anything.
    pub block_table: &'a [u32],
    /// Row length of `block_table`.
    pub max_blocks: usize,
    /// Rows whose logits are wanted, in the order in which they are returned.
    pub output_rows: &'a [u32],
}

/// Sizes of the passes over the head: the smallest that holds the outputs left is taken, so that a decode step of a few
/// rows fetches few logits from the device.
const HEAD_PASSES: [usize; 4] = [1, 4, 16, 64];

/// Buffers of one pass over the head.
struct HeadPass<B: Backend> {
    rows: Ids<B>,
    logits: Accs<B>,
}

/// Workspace of [`infer_step`]. Made once; a step allocates nothing after the first with as many outputs.
pub struct InferStep<B: Backend> {
    limits: StepLimits,
    n_positions: usize,
    rope_tables: Option<RopeTables<B>>,
    tokens: Ids<B>,
    positions: Ids<B>,
    slots: Ids<B>,
    sequences: Ids<B>,
    block_table: Ids<B>,
    /// Residual stream before and after a block.
    x: Elems<B>,
    /// Residual stream between attention and feed-forward layer.
    mid: Elems<B>,
    norm_out: Elems<B>,
    stats: Accs<B>,
    qkv: Elems<B>,
    /// `qkv` before its heads are normalised.
    qkv_plain: Option<Elems<B>>,
    heads: Elems<B>,
    ffn_gate: Option<Elems<B>>,
    ffn_up: Option<Elems<B>>,
    ffn_act: Elems<B>,
    head_inp: Elems<B>,
    head_norm: Elems<B>,
    passes: Vec<HeadPass<B>>,
    host_ids: Vec<u32>,
    host_logits: Vec<B::Acc>,
    /// For [`hidden_states`], empty without.
    host_elems: Vec<B::Elem>,
    host_hidden: Vec<f32>,
}

/// Lengths of a workspace's buffers: of elements, of accumulators, of ids.
fn workspace_sizes(config: &ModelConfig, limits: &StepLimits) -> [usize; 3] {
    let c = config;
    let rows = limits.max_rows;
    let ffn = if c.activation.is_gated() { 3 } else { 1 } * c.d_ff;
    let largest = HEAD_PASSES[HEAD_PASSES.len() - 1];
    let qkv = if c.qk_norm { 2 } else { 1 } * c.qkv_width();
    let elems = rows * (3 * c.d_model + qkv + c.heads_width() + ffn) + 2 * largest * c.d_model;
    let all_passes: usize = HEAD_PASSES.iter().sum();
    let accs = rows.max(largest) * 2 + all_passes * c.n_vocab + rope_tables_len(c, n_positions(c, limits));
    let ids = 4 * rows + limits.max_sequences * limits.max_blocks + all_passes;
    [elems, accs, ids]
}

fn n_positions(config: &ModelConfig, limits: &StepLimits) -> usize {
    config.n_ctx.min(limits.max_blocks * KV_BLOCK)
}

impl<B: InferBackend> InferStep<B> {
    /// Allocates.
    ///
    /// # Errors
    /// Out of memory; a limit of 0.
    pub fn new(backend: &B, config: &ModelConfig, limits: StepLimits) -> Result<Self, ModelError> {
        let c = config;
        let rows = limits.max_rows;
        let blocks = limits.max_sequences.saturating_mul(limits.max_blocks);
        if rows == 0 || blocks == 0 {
            return Err(ModelError::BatchSize { what: "rows, sequences or blocks of a step", found: 0, limit: 0 });
        }
        let elems = |width: usize| backend.alloc::<B::Elem>(rows * width);
        let ids = |len: usize| backend.alloc::<u32>(len);
        let gated = |width: usize| c.activation.is_gated().then(|| elems(width)).transpose();
        let largest = HEAD_PASSES[HEAD_PASSES.len() - 1];
        let n_positions = n_positions(c, &limits);
        let passes = HEAD_PASSES
            .iter()
            .map(|&n| Ok(HeadPass { rows: ids(n)?, logits: backend.alloc(n * c.n_vocab)? }))
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            limits,
            n_positions,
            rope_tables: RopeTables::new(backend, c, n_positions)?,
            tokens: ids(rows)?,
            positions: ids(rows)?,
            slots: ids(rows)?,
            sequences: ids(rows)?,
            block_table: ids(blocks)?,
            x: elems(c.d_model)?,
            mid: elems(c.d_model)?,
            norm_out: elems(c.d_model)?,
            stats: backend.alloc(rows.max(largest) * 2)?,
            qkv: elems(c.qkv_width())?,
            qkv_plain: c.qk_norm.then(|| elems(c.qkv_width())).transpose()?,
            heads: elems(c.heads_width())?,
            ffn_gate: gated(c.d_ff)?,
            ffn_up: gated(c.d_ff)?,
            ffn_act: elems(c.d_ff)?,
            head_inp: backend.alloc(largest * c.d_model)?,
            head_norm: backend.alloc(largest * c.d_model)?,
            passes,
            host_ids: vec![0; rows.max(blocks).max(largest)],
            host_logits: Vec::new(),
            host_elems: Vec::new(),
            host_hidden: Vec::new(),
        })
    }

    /// What a step may be asked for.
    pub fn limits(&self) -> StepLimits {
        self.limits
    }

    /// Bytes that [`InferStep::new`] allocates on the machine.
    pub fn bytes(config: &ModelConfig, limits: StepLimits) -> usize {
        let [elems, accs, ids] = workspace_sizes(config, &limits);
        elems * size_of::<B::Elem>() + accs * size_of::<B::Acc>() + ids * size_of::<u32>()
    }

    /// Bytes that [`InferStep::new`] and steps of at most `outputs` outputs allocate on the host.
    pub fn host_bytes(config: &ModelConfig, limits: StepLimits, outputs: usize) -> usize {
        let largest = HEAD_PASSES[HEAD_PASSES.len() - 1];
        let outputs = outputs.min(limits.max_rows);
        let last = HEAD_PASSES.into_iter().find(|&rows| rows >= outputs % largest).unwrap_or(largest);
        let rows = outputs / largest * largest + if outputs.is_multiple_of(largest) { 0 } else { last };
        let ids = limits.max_rows.max(limits.max_sequences * limits.max_blocks).max(largest);
        rows * config.n_vocab * size_of::<B::Acc>() + ids * size_of::<u32>()
    }
}

/// Memory of generation, by purpose. `formats` as for [`InferWeights::bytes`].
pub fn infer_memory_plan<B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    formats: Option<&WeightFormats>,
    (n_blocks, kv_format): (usize, KvFormat),
    limits: StepLimits,
) -> Vec<PlanItem> {
    let scratch = formats.map_or(0, |_| infer_scratch_bytes(backend, config, limits.max_rows));
    [
        ("weights", InferWeights::<B>::bytes(backend, config, formats)),
        ("KV cache", KvCache::<B>::bytes(config, n_blocks, kv_format)),
        ("step workspace", InferStep::<B>::bytes(config, limits)),
        ("products with quantised weights", scratch),
    ]
    .map(|(purpose, bytes)| PlanItem { purpose, bytes: bytes as u64 })
    .into_iter()
    .filter(|item| item.bytes > 0)
    .collect()
}

/// Most memory, bytes, that a machine keeps for itself in a step of up to `rows` tokens with quantised weights.
fn infer_scratch_bytes<B: InferBackend>(backend: &B, config: &ModelConfig, rows: usize) -> usize {
    let head_rows = HEAD_PASSES[HEAD_PASSES.len() - 1];
    let head = LinearShape { rows: head_rows, d_in: config.d_model, d_out: config.n_vocab };
    let layers = [qkv_shape, attn_out_shape, ffn_up_shape, ffn_down_shape].map(|shape| shape(config, rows));
    layers.into_iter().chain([head]).map(|shape| backend.quantized_scratch_bytes(shape)).max().unwrap_or(0)
}

/// Bytes of a KV cache entry for one token, all layers together.
pub fn kv_bytes_per_token(config: &ModelConfig, sizes: ElementSizes) -> usize {
    2 * config.n_layers * config.n_kv_heads * config.d_head * sizes.elem
}

/// The forward pass on the buffers of a generation step.
struct StepForward<'a, B: InferBackend> {
    backend: &'a B,
    config: &'a ModelConfig,
    weights: &'a Params<InferTensor<B>>,
    cache: &'a mut KvCache<B>,
    ws: &'a mut InferStep<B>,
    rows: usize,
    max_blocks: usize,
}

fn norm<B: InferBackend>(
    backend: &B,
    params: &NormParams<InferTensor<B>>,
    inp: &Elems<B>,
    out: &mut Elems<B>,
    stats: &mut Accs<B>,
    shape: verve_ops::NormShape,
) {
    let (weight, bias) = (params.weight.plain(), params.bias.as_ref().map(InferTensor::plain));
    backend.norm(Norm { inp, weight, bias, out, stats, shape });
}

fn linear<B: InferBackend>(
    backend: &B,
    params: &LinearParams<InferTensor<B>>,
    inp: &Elems<B>,
    out: &mut Elems<B>,
    epilogue: InferEpilogue<'_, B>,
    shape: LinearShape,
) {
    let (weight, bias) = (params.weight.prepared(), params.bias.as_ref().map(InferTensor::plain));
    backend.linear_prepared(LinearPrepared { inp, weight, bias, out, epilogue, shape });
}

impl<B: InferBackend> Forward for StepForward<'_, B> {
    fn embed(&mut self) {
        let ws = &mut *self.ws;
        self.backend.embed_prepared(EmbedPrepared {
            tokens: &ws.tokens,
            positions: &ws.positions,
            table: self.weights.tok_embed.prepared(),
            pos_table: self.weights.pos_embed.as_ref().map(InferTensor::plain),
            out: &mut ws.x,
            shape: embed_shape(self.config, self.rows),
        });
    }

    fn scale_embedding(&mut self) {
        let Some(factor) = self.config.embed_factor::<B::Elem>() else { return };
        let (x, len) = (&mut self.ws.x, self.rows * self.config.d_model);
        self.backend.scaled_sum(ScaledSum { x, factor, y: None, len });
    }

    fn attn_norm(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer].attn_norm, norm_shape(self.config, self.rows));
        match params {
            Some(params) => norm(self.backend, params, &ws.x, &mut ws.norm_out, &mut ws.stats, shape),
            None => self.backend.copy(&ws.x, &mut ws.norm_out),
        }
    }

    fn attn_qkv(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer].attn_qkv, qkv_shape(self.config, self.rows));
        let out = ws.qkv_plain.as_mut().unwrap_or(&mut ws.qkv);
        linear(self.backend, params, &ws.norm_out, out, InferEpilogue::Store, shape);
    }

    fn qk_norm(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let params = &self.weights.layers[layer];
        let (Some(q_weight), Some(k_weight), Some(inp)) = (&params.q_norm, &params.k_norm, &ws.qkv_plain) else {
            panic!("weights or workspace of another model: no norm of heads");
        };
        let (q_weight, k_weight) = (q_weight.plain(), k_weight.plain());
        let shape = head_norm_shape(self.config, self.rows);
        self.backend.head_norm(HeadNorm { inp, q_weight, k_weight, out: &mut ws.qkv, shape });
    }

    fn rope(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let Some(tables) = &ws.rope_tables else { panic!("workspace of another model: no rotary table") };
        let table = tables.of(self.config.window(layer));
        let shape = rope_shape(self.config, self.rows, ws.n_positions);
        self.backend.rope(Rope { x: &mut ws.qkv, table, positions: &ws.positions, shape });
    }

    fn attention(&mut self, layer: usize, window: Option<usize>) {
        let (ws, cache) = (&mut *self.ws, &mut *self.cache);
        let layer = &mut cache.layers[layer];
        self.backend.kv_write(KvWrite {
            qkv: &ws.qkv,
            n_heads: self.config.n_heads,
            rows: self.rows,
            slots: &ws.slots,
            cache: layer,
            shape: cache.shape,
        });
        self.backend.attention_cached(AttentionCached {
            qkv: &ws.qkv,
            cache: layer,
            out: &mut ws.heads,
            batch: RaggedBatch {
                rows: self.rows,
                sequences: &ws.sequences,
                positions: &ws.positions,
                block_table: &ws.block_table,
                max_blocks: self.max_blocks,
            },
            n_heads: self.config.n_heads,
            window,
            scale: self.config.score_scale(),
            shape: cache.shape,
        });
    }

    fn attn_out(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer].attn_out, attn_out_shape(self.config, self.rows));
        let residual = match self.config.residual {
            Residual::PostNorm => &ws.norm_out,
            Residual::Sequential | Residual::Parallel => &ws.x,
        };
        linear(self.backend, params, &ws.heads, &mut ws.mid, InferEpilogue::Residual(residual), shape);
    }

    fn attn_out_normed(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer], attn_out_shape(self.config, self.rows));
        let Some(post) = &params.attn_post_norm else { panic!("weights of another model: no norm of branches") };
        // The norm's input has been read: its buffer takes the branch.
        linear(self.backend, &params.attn_out, &ws.heads, &mut ws.norm_out, InferEpilogue::Store, shape);
        norm(self.backend, post, &ws.norm_out, &mut ws.mid, &mut ws.stats, norm_shape(self.config, self.rows));
        let (x, y, len) = (&mut ws.mid, Some(&ws.x), self.rows * shape.d_out);
        self.backend.scaled_sum(ScaledSum { x, factor: 1.0, y, len });
    }

    fn ffn_norm(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer].ffn_norm, norm_shape(self.config, self.rows));
        let inp = match self.config.residual {
            Residual::Sequential | Residual::PostNorm => &ws.mid,
            Residual::Parallel => &ws.x,
        };
        norm(self.backend, params, inp, &mut ws.norm_out, &mut ws.stats, shape);
    }

    fn ffn_up_activate(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer].ffn_up, ffn_up_shape(self.config, self.rows));
        let epilogue = InferEpilogue::Activate(self.config.activation.function());
        linear(self.backend, params, &ws.norm_out, &mut ws.ffn_act, epilogue, shape);
    }

    fn ffn_up_gated(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer], ffn_up_shape(self.config, self.rows));
        let (Some(gate_params), Some(gate), Some(up)) = (&params.ffn_gate, &mut ws.ffn_gate, &mut ws.ffn_up) else {
            panic!("weights or workspace of another model: no gate");
        };
        linear(self.backend, gate_params, &ws.norm_out, gate, InferEpilogue::Store, shape);
        linear(self.backend, &params.ffn_up, &ws.norm_out, up, InferEpilogue::Store, shape);
        let (len, activation) = (shape.rows * shape.d_out, self.config.activation.function());
        self.backend.gate(Gate { gate, up, out: &mut ws.ffn_act, len, activation });
    }

    fn ffn_down(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer].ffn_down, ffn_down_shape(self.config, self.rows));
        let residual = match self.config.residual {
            Residual::PostNorm => &ws.norm_out,
            Residual::Sequential | Residual::Parallel => &ws.mid,
        };
        linear(self.backend, params, &ws.ffn_act, &mut ws.x, InferEpilogue::Residual(residual), shape);
    }

    fn ffn_down_normed(&mut self, layer: usize) {
        let ws = &mut *self.ws;
        let (params, shape) = (&self.weights.layers[layer], ffn_down_shape(self.config, self.rows));
        let Some(post) = &params.ffn_post_norm else { panic!("weights of another model: no norm of branches") };
        linear(self.backend, &params.ffn_down, &ws.ffn_act, &mut ws.norm_out, InferEpilogue::Store, shape);
        norm(self.backend, post, &ws.norm_out, &mut ws.x, &mut ws.stats, norm_shape(self.config, self.rows));
        let (x, y, len) = (&mut ws.x, Some(&ws.mid), self.rows * shape.d_out);
        self.backend.scaled_sum(ScaledSum { x, factor: 1.0, y, len });
    }

    /// Left to [`head`], which takes only the rows whose logits are wanted.
    fn final_norm(&mut self) {}
}

/// Runs the rows of `batch` through the model, writes their keys and values into the cache, and returns the logits of
/// `batch.output_rows`, `[n_outputs, V]`. The result of a row depends on its own sequence only, bit for bit.
///
/// # Errors
/// A batch above the workspace's limits, an id outside the vocabulary, a failed device.
///
/// # Panics
/// When positions, slots, sequences, blocks or output rows contradict each other: a bug of the scheduler.
pub fn infer_step<'w, B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    weights: &InferWeights<B>,
    cache: &mut KvCache<B>,
    batch: &StepBatch<'_>,
    ws: &'w mut InferStep<B>,
) -> Result<&'w [B::Acc], ModelError> {
    check(config, cache, batch, ws)?;
    if batch.tokens.is_empty() {
        return Ok(&[]);
    }
    let InferStep { host_ids, .. } = ws;
    for (ids, buffer) in [
        (batch.tokens, &mut ws.tokens),
        (batch.positions, &mut ws.positions),
        (batch.slots, &mut ws.slots),
        (batch.sequences, &mut ws.sequences),
    ] {
        stage(backend, host_ids, ids, ws.limits.max_rows, buffer);
    }
    let table_len = ws.limits.max_sequences * ws.limits.max_blocks;
    stage(backend, host_ids, batch.block_table, table_len, &mut ws.block_table);
    let (rows, max_blocks) = (batch.tokens.len(), batch.max_blocks);
    let weights = &weights.0;
    network::forward(config, &mut StepForward { backend, config, weights, cache, ws, rows, max_blocks });
    head(backend, config, weights, batch.output_rows, ws)
}

/// Uploads ids to the beginning of a longer buffer.
fn stage<B: Backend>(backend: &B, host: &mut [u32], ids: &[u32], len: usize, buffer: &mut Ids<B>) {
    host[..ids.len()].copy_from_slice(ids);
    host[ids.len()..len].fill(0);
    backend.upload(&host[..len], buffer);
}

/// Last norm and head of the wanted rows, a few at a time.
fn head<'w, B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    weights: &Params<InferTensor<B>>,
    output_rows: &[u32],
    ws: &'w mut InferStep<B>,
) -> Result<&'w [B::Acc], ModelError> {
    let largest = HEAD_PASSES.len() - 1;
    let mut done = 0;
    while done < output_rows.len() {
        let left = output_rows.len() - done;
        let which = HEAD_PASSES.iter().position(|&rows| rows >= left).unwrap_or(largest);
        let pass_rows = HEAD_PASSES[which];
        let n_rows = left.min(pass_rows);
        let pass = &mut ws.passes[which];
        stage(backend, &mut ws.host_ids, &output_rows[done..done + n_rows], pass_rows, &mut pass.rows);
        let (rows, out) = (&pass.rows, &mut ws.head_inp);
        backend.gather_rows(GatherRows { inp: &ws.x, rows, n_rows, out, cols: config.d_model });
        let shape = norm_shape(config, n_rows);
        norm(backend, &weights.final_norm, &ws.head_inp, &mut ws.head_norm, &mut ws.stats, shape);
        backend.logits(Logits {
            inp: &ws.head_norm,
            weight: weights.lm_head.as_ref().unwrap_or(&weights.tok_embed).prepared(),
            out: &mut pass.logits,
            shape: head_shape(config, n_rows),
        });
        let (from, to) = (done * config.n_vocab, (done + pass_rows) * config.n_vocab);
        if ws.host_logits.len() < to {
            ws.host_logits.resize(to, B::Acc::from_f32(0.0));
        }
        backend.download(&pass.logits, &mut ws.host_logits[from..to])?;
        done += n_rows;
    }
    Ok(&ws.host_logits[..output_rows.len() * config.n_vocab])
}

/// Hidden states behind the last norm, `[n, C]`, of these rows of the last step.
///
/// # Errors
/// A failed device.
///
/// # Panics
/// For a row that the workspace has not.
pub fn hidden_states<'w, B: InferBackend>(
    backend: &B,
    config: &ModelConfig,
    weights: &InferWeights<B>,
    rows: &[u32],
    ws: &'w mut InferStep<B>,
) -> Result<&'w [f32], ModelError> {
    let cols = config.d_model;
    let pass = HEAD_PASSES.len() - 1;
    ws.host_hidden.clear();
    for rows in rows.chunks(HEAD_PASSES[pass]) {
        let most = ws.limits.max_rows;
        assert!(rows.iter().all(|&row| (row as usize) < most), "hidden_states: a row of {rows:?}, there are {most}");
        let ids = &mut ws.passes[pass].rows;
        stage(backend, &mut ws.host_ids, rows, HEAD_PASSES[pass], ids);
        backend.gather_rows(GatherRows { inp: &ws.x, rows: ids, n_rows: rows.len(), out: &mut ws.head_inp, cols });
        let shape = norm_shape(config, rows.len());
        norm(backend, &weights.0.final_norm, &ws.head_inp, &mut ws.head_norm, &mut ws.stats, shape);
        ws.host_elems.resize(HEAD_PASSES[pass] * cols, B::Elem::from_f32(0.0));
        backend.download(&ws.head_norm, &mut ws.host_elems)?;
        ws.host_hidden.extend(ws.host_elems[..rows.len() * cols].iter().map(|x| x.to_f32()));
    }
    Ok(&ws.host_hidden)
}

/// Checks everything the kernels rely on.
fn check<B: InferBackend>(
    config: &ModelConfig,
    cache: &KvCache<B>,
    batch: &StepBatch<'_>,
    ws: &InferStep<B>,
) -> Result<(), ModelError> {
    let StepBatch { tokens, positions, slots, sequences, block_table, max_blocks, output_rows } = *batch;
    let rows = tokens.len();
    assert!(
        [positions.len(), slots.len(), sequences.len()] == [rows; 3],
        "infer_step: {rows} tokens, {} positions, {} slots, {} sequences",
        positions.len(),
        slots.len(),
        sequences.len()
    );
    assert!(max_blocks > 0 && block_table.len().is_multiple_of(max_blocks), "infer_step: ragged block table");
    let n_sequences = block_table.len() / max_blocks;
    for (what, found, limit) in [
        ("rows of a step", rows, ws.limits.max_rows),
        ("sequences of a step", n_sequences, ws.limits.max_sequences),
        ("blocks of a sequence", max_blocks, ws.limits.max_blocks),
    ] {
        if found > limit {
            return Err(ModelError::BatchSize { what, found, limit });
        }
    }
    if let Some(index) = tokens.iter().position(|&id| id as usize >= config.n_vocab) {
        return Err(ModelError::TokenId { what: "tokens", index, found: tokens[index], limit: config.n_vocab });
    }
    let longest = ws.n_positions.min(max_blocks * KV_BLOCK);
    for row in 0..rows {
        let (position, sequence) = (positions[row] as usize, sequences[row] as usize);
        assert!(position < longest, "infer_step: position {position} of row {row}, there is room for {longest}");
        assert!(sequence < n_sequences, "infer_step: sequence {sequence} of row {row}, there are {n_sequences}");
        let slot = slots[row] as usize;
        let block = block_table[sequence * max_blocks + position / KV_BLOCK] as usize;
        assert!(
            slot == block * KV_BLOCK + position % KV_BLOCK,
            "infer_step: slot {slot} of row {row} is not position {position} of block {block}"
        );
        for &block in &block_table[sequence * max_blocks..][..=position / KV_BLOCK] {
            let n_blocks = cache.n_blocks();
            assert!((block as usize) < n_blocks, "infer_step: block {block} of row {row}, there are {n_blocks}");
        }
    }
    for &row in output_rows {
        assert!((row as usize) < rows, "infer_step: output row {row}, there are {rows} rows");
    }
    Ok(())
}
