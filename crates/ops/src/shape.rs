//! Dimensions of operations. Letters: `N` rows (usually batch x time), `C` model width, `T` time, `H` query heads,
//! `K` key/value heads, `D` head width, `V` vocabulary.

/// Which normalisation. Statistics are always taken in [`crate::Backend::Acc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm (Ba et al. 2016): `(x - mean) / sqrt(var + eps) * weight + bias`, variance without Bessel's correction.
    Layer,
    /// RMSNorm (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + eps) * weight`.
    Rms,
    /// RMSNorm with the weight kept less one: `x / sqrt(mean(x^2) + eps) * (1 + weight)` (Gemma). The sum is taken in
    /// [`crate::Backend::Acc`].
    RmsPlusOne,
}

/// Pointwise activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU, tanh approximation (Hendrycks and Gimpel 2016; `gelu_new` of GPT-2).
    GeluTanh,
    /// GELU with the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
}

/// Rows and widths of an embedding look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedShape {
    /// `N`: number of tokens.
    pub rows: usize,
    /// `C`.
    pub d_model: usize,
    /// Rows of the token table.
    pub n_vocab: usize,
    /// Rows of the position table; 0 if there is none.
    pub n_positions: usize,
}

/// Rows and width of a normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    /// `N`.
    pub rows: usize,
    /// `C`.
    pub cols: usize,
    /// Which normalisation.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f32,
}

/// RMSNorm of each query head and each key head of rows as [`AttnShape`] describes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadNormShape {
    /// `N`.
    pub rows: usize,
    /// `H`.
    pub n_heads: usize,
    /// `K`.
    pub n_kv_heads: usize,
    /// `D`.
    pub d_head: usize,
    /// [`NormKind::Rms`] or [`NormKind::RmsPlusOne`].
    pub kind: NormKind,
    /// Added to the mean square.
    pub eps: f32,
}

impl HeadNormShape {
    /// Elements in one row: `(H + 2K) D`.
    pub fn row_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.d_head
    }
}

/// `out[rows, d_out] = inp[rows, d_in] . weight[d_out, d_in]^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    /// `N`.
    pub rows: usize,
    /// Width of the input, the reduced dimension of the forward product.
    pub d_in: usize,
    /// Width of the output.
    pub d_out: usize,
}

/// Rotary position embedding (Su et al. 2021), half-split form: dimension `i` is paired with `i + d_rot / 2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RopeShape {
    /// `N`.
    pub rows: usize,
    /// Elements of one row of the buffer; the heads to rotate start at its column 0 and lie side by side.
    pub row_width: usize,
    /// Heads to rotate: query heads and key heads together.
    pub n_heads: usize,
    /// `D`.
    pub d_head: usize,
    /// Leading dimensions of each head that rotate; even, at most `d_head`.
    pub d_rot: usize,
    /// Rows of the cosine/sine table.
    pub n_positions: usize,
}

/// Causal attention over whole rows of `seq_len` tokens. A row of `qkv` holds `H` query heads, then `K` key heads, then
/// `K` value heads, each `D` wide. Query head `h` reads key/value head `h / (H / K)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttnShape {
    /// Sequences.
    pub batch: usize,
    /// `T`: tokens in each sequence.
    pub seq_len: usize,
    /// `H`.
    pub n_heads: usize,
    /// `K`; divides `H`.
    pub n_kv_heads: usize,
    /// `D`.
    pub d_head: usize,
    /// Locally banded attention: query `i` sees keys `j` with `0 <= i - j < window`. `None` is dense (causal).
    pub window: Option<usize>,
    /// Factor on the scores, `1 / sqrt(D)` in most models.
    pub scale: f32,
}

impl AttnShape {
    /// Elements in one row of `qkv`.
    pub fn qkv_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.d_head
    }

    /// Elements in one row of the output.
    pub fn out_width(&self) -> usize {
        self.n_heads * self.d_head
    }

    /// `batch * seq_len`.
    pub fn rows(&self) -> usize {
        self.batch * self.seq_len
    }
}

/// The output head and its loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// `N`.
    pub rows: usize,
    /// `C`.
    pub d_model: usize,
    /// `V`.
    pub n_vocab: usize,
}

/// Target id that takes no part in the loss.
pub const IGNORE_TARGET: u32 = u32::MAX;

/// Numbers of one AdamW step (Loshchilov and Hutter 2019; decay is decoupled and scaled by the learning rate, as in PyTorch):
///
/// ```text
/// g = grad * grad_scale
/// m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
/// w = w (1 - lr * weight_decay) - lr * (m / bias_correction1) / (sqrt(v / bias_correction2) + eps)
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay; 0 for vectors.
    pub weight_decay: f32,
    /// `1 - beta1^step`, steps counted from 1.
    pub bias_correction1: f32,
    /// `1 - beta2^step`.
    pub bias_correction2: f32,
    /// Factor on the gradient: clipping and the mean over accumulated micro-batches.
    pub grad_scale: f32,
}

/// Tokens in one block of the KV cache. Fixed, so that attention always adds in the same order.
pub const KV_BLOCK: usize = 64;

/// One layer's KV cache: `n_blocks` blocks of [`KV_BLOCK`] tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks in the cache.
    pub n_blocks: usize,
    /// `K`.
    pub n_kv_heads: usize,
    /// `D`.
    pub d_head: usize,
}

impl KvShape {
    /// Elements of the keys (and as many again of the values).
    pub fn len(&self) -> usize {
        self.n_blocks * KV_BLOCK * self.n_kv_heads * self.d_head
    }

    /// True when the cache has no room at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
