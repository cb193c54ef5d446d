//! Arguments of [`Backend`]: what training needs.

use super::{Accs, Elems, Ids, at_least, check_heads, same};
use crate::shape::*;
use crate::{Backend, Buffer};

/// See [`Backend::embed`]: `out[n] = table[tokens[n]] + pos_table[positions[n]]`. Buffers of rows may be longer than
/// `rows` needs: their beginning is used.
pub struct Embed<'a, B: Backend> {
    /// `[N]`, each below `n_vocab`.
    pub tokens: &'a Ids<B>,
    /// `[N]`, each below `n_positions` if there is a position table.
    pub positions: &'a Ids<B>,
    /// `[V, C]`.
    pub table: &'a Elems<B>,
    /// `[n_positions, C]`.
    pub pos_table: Option<&'a Elems<B>>,
    /// `[N, C]`.
    pub out: &'a mut Elems<B>,
    /// Sizes.
    pub shape: EmbedShape,
}

impl<B: Backend> Embed<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("embed", "tokens", self.tokens.len(), s.rows, s);
        at_least("embed", "positions", self.positions.len(), s.rows, s);
        same("embed", "table", self.table.len(), s.n_vocab * s.d_model, s);
        if let Some(pos) = self.pos_table {
            same("embed", "pos_table", pos.len(), s.n_positions * s.d_model, s);
        }
        at_least("embed", "out", self.out.len(), s.rows * s.d_model, s);
    }
}

/// See [`Backend::embed_backward`]. Rows are added in increasing `n` for each table row.
pub struct EmbedBackward<'a, B: Backend> {
    /// `[N]`.
    pub tokens: &'a Ids<B>,
    /// `[N]`.
    pub positions: &'a Ids<B>,
    /// `[N, C]`.
    pub d_out: &'a Elems<B>,
    /// `[V, C]`, added to.
    pub d_table: &'a mut Accs<B>,
    /// `[n_positions, C]`, added to.
    pub d_pos_table: Option<&'a mut Accs<B>>,
    /// Sizes.
    pub shape: EmbedShape,
}

impl<B: Backend> EmbedBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("embed_backward", "tokens", self.tokens.len(), s.rows, s);
        same("embed_backward", "positions", self.positions.len(), s.rows, s);
        same("embed_backward", "d_out", self.d_out.len(), s.rows * s.d_model, s);
        same("embed_backward", "d_table", self.d_table.len(), s.n_vocab * s.d_model, s);
        if let Some(pos) = &self.d_pos_table {
            same("embed_backward", "d_pos_table", pos.len(), s.n_positions * s.d_model, s);
        }
    }
}

/// See [`Backend::norm`]. Buffers of rows may be longer than `rows` needs: their beginning is used.
pub struct Norm<'a, B: Backend> {
    /// `[N, C]`.
    pub inp: &'a Elems<B>,
    /// `[C]`.
    pub weight: &'a Elems<B>,
    /// `[C]`; `None` for RMSNorm and for LayerNorm without bias.
    pub bias: Option<&'a Elems<B>>,
    /// `[N, C]`.
    pub out: &'a mut Elems<B>,
    /// `[N, 2]`: mean (0 for RMSNorm) and reciprocal standard deviation of each row, for the backward.
    pub stats: &'a mut Accs<B>,
    /// Sizes.
    pub shape: NormShape,
}

impl<B: Backend> Norm<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("norm", "inp", self.inp.len(), s.rows * s.cols, s);
        same("norm", "weight", self.weight.len(), s.cols, s);
        if let Some(bias) = self.bias {
            same("norm", "bias", bias.len(), s.cols, s);
        }
        at_least("norm", "out", self.out.len(), s.rows * s.cols, s);
        at_least("norm", "stats", self.stats.len(), s.rows * 2, s);
    }
}

/// See [`Backend::norm_backward`].
pub struct NormBackward<'a, B: Backend> {
    /// `[N, C]`.
    pub d_out: &'a Elems<B>,
    /// `[N, C]`, the input of the forward.
    pub inp: &'a Elems<B>,
    /// `[C]`.
    pub weight: &'a Elems<B>,
    /// `[N, 2]`, from the forward.
    pub stats: &'a Accs<B>,
    /// `[N, C]`, added to: it is the gradient of the residual stream.
    pub d_inp: &'a mut Elems<B>,
    /// `[C]`, added to.
    pub d_weight: &'a mut Accs<B>,
    /// `[C]`, added to.
    pub d_bias: Option<&'a mut Accs<B>>,
    /// Sizes.
    pub shape: NormShape,
}

impl<B: Backend> NormBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("norm_backward", "d_out", self.d_out.len(), s.rows * s.cols, s);
        same("norm_backward", "inp", self.inp.len(), s.rows * s.cols, s);
        same("norm_backward", "weight", self.weight.len(), s.cols, s);
        same("norm_backward", "stats", self.stats.len(), s.rows * 2, s);
        same("norm_backward", "d_inp", self.d_inp.len(), s.rows * s.cols, s);
        same("norm_backward", "d_weight", self.d_weight.len(), s.cols, s);
        if let Some(bias) = &self.d_bias {
            same("norm_backward", "d_bias", bias.len(), s.cols, s);
        }
    }
}

/// See [`Backend::head_norm`]. Buffers of rows may be longer than `rows` needs: their beginning is used.
pub struct HeadNorm<'a, B: Backend> {
    /// `[N, (H + 2K) D]`.
    pub inp: &'a Elems<B>,
    /// `[D]`, for query heads.
    pub q_weight: &'a Elems<B>,
    /// `[D]`, for key heads.
    pub k_weight: &'a Elems<B>,
    /// `[N, (H + 2K) D]`; value heads are copied.
    pub out: &'a mut Elems<B>,
    /// Sizes.
    pub shape: HeadNormShape,
}

impl<B: Backend> HeadNorm<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        assert!(s.kind != NormKind::Layer, "head_norm: LayerNorm of heads does not exist");
        at_least("head_norm", "inp", self.inp.len(), s.rows * s.row_width(), s);
        same("head_norm", "q_weight", self.q_weight.len(), s.d_head, s);
        same("head_norm", "k_weight", self.k_weight.len(), s.d_head, s);
        at_least("head_norm", "out", self.out.len(), s.rows * s.row_width(), s);
    }
}

/// See [`Backend::head_norm_backward`].
pub struct HeadNormBackward<'a, B: Backend> {
    /// `[N, (H + 2K) D]`, the input of the forward.
    pub inp: &'a Elems<B>,
    /// `[D]`.
    pub q_weight: &'a Elems<B>,
    /// `[D]`.
    pub k_weight: &'a Elems<B>,
    /// `[N, (H + 2K) D]`: the gradient of the output before, of the input after. Value heads stay as they are.
    pub d_rows: &'a mut Elems<B>,
    /// `[D]`, added to.
    pub d_q_weight: &'a mut Accs<B>,
    /// `[D]`, added to.
    pub d_k_weight: &'a mut Accs<B>,
    /// Sizes.
    pub shape: HeadNormShape,
}

impl<B: Backend> HeadNormBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        assert!(s.kind != NormKind::Layer, "head_norm_backward: LayerNorm of heads does not exist");
        same("head_norm_backward", "inp", self.inp.len(), s.rows * s.row_width(), s);
        same("head_norm_backward", "q_weight", self.q_weight.len(), s.d_head, s);
        same("head_norm_backward", "k_weight", self.k_weight.len(), s.d_head, s);
        same("head_norm_backward", "d_rows", self.d_rows.len(), s.rows * s.row_width(), s);
        same("head_norm_backward", "d_q_weight", self.d_q_weight.len(), s.d_head, s);
        same("head_norm_backward", "d_k_weight", self.d_k_weight.len(), s.d_head, s);
    }
}

/// See [`Backend::scaled_sum`]. Buffers may be longer than `len`: their beginning is used.
pub struct ScaledSum<'a, B: Backend> {
    /// What is scaled, and the result.
    pub x: &'a mut Elems<B>,
    /// Factor on `x`.
    pub factor: f32,
    /// Added to it.
    pub y: Option<&'a Elems<B>>,
    /// Elements.
    pub len: usize,
}

impl<B: Backend> ScaledSum<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        at_least("scaled_sum", "x", self.x.len(), self.len, &self.len);
        if let Some(y) = self.y {
            at_least("scaled_sum", "y", y.len(), self.len, &self.len);
        }
    }
}

/// What is fused behind a forward product. The sum in the accumulator is rounded to `Elem` once, at the store.
pub enum Epilogue<'a, B: Backend> {
    /// `out = product + bias`.
    Store,
    /// `out = residual + product + bias`; `[N, d_out]`.
    Residual(&'a Elems<B>),
    /// `pre = product + bias`, `out = activation(pre)` (of the rounded `pre`, so that recomputing it gives the same bits).
    Activate {
        /// The function.
        activation: Activation,
        /// `[N, d_out]`, kept for the backward.
        pre: &'a mut Elems<B>,
    },
}

/// See [`Backend::linear`].
pub struct Linear<'a, B: Backend> {
    /// `[N, d_in]`.
    pub inp: &'a Elems<B>,
    /// `[d_out, d_in]`.
    pub weight: &'a Elems<B>,
    /// `[d_out]`.
    pub bias: Option<&'a Elems<B>>,
    /// `[N, d_out]`.
    pub out: &'a mut Elems<B>,
    /// What happens to the product.
    pub epilogue: Epilogue<'a, B>,
    /// Sizes.
    pub shape: LinearShape,
}

impl<B: Backend> Linear<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("linear", "inp", self.inp.len(), s.rows * s.d_in, s);
        same("linear", "weight", self.weight.len(), s.d_out * s.d_in, s);
        if let Some(bias) = self.bias {
            same("linear", "bias", bias.len(), s.d_out, s);
        }
        same("linear", "out", self.out.len(), s.rows * s.d_out, s);
        match &self.epilogue {
            Epilogue::Store => {}
            Epilogue::Residual(residual) => same("linear", "residual", residual.len(), s.rows * s.d_out, s),
            Epilogue::Activate { pre, .. } => same("linear", "pre", pre.len(), s.rows * s.d_out, s),
        }
    }
}

/// What is fused behind the product that gives an input gradient.
pub enum InputGrad<'a, B: Backend> {
    /// `d_inp = d_out . weight`.
    Set,
    /// `d_inp += d_out . weight`.
    Add,
    /// `d_inp = (d_out . weight) * activation'(pre)`: the input was `activation(pre)`, and `d_inp` is the gradient of
    /// `pre`, `[N, d_in]`.
    ThroughActivation {
        /// The function.
        activation: Activation,
        /// `[N, d_in]`.
        pre: &'a Elems<B>,
    },
}

/// See [`Backend::linear_backward_input`].
pub struct LinearBackwardInput<'a, B: Backend> {
    /// `[N, d_out]`.
    pub d_out: &'a Elems<B>,
    /// `[d_out, d_in]`.
    pub weight: &'a Elems<B>,
    /// `[N, d_in]`.
    pub d_inp: &'a mut Elems<B>,
    /// Overwrite, add, or pass through an activation.
    pub write: InputGrad<'a, B>,
    /// Sizes of the forward.
    pub shape: LinearShape,
}

impl<B: Backend> LinearBackwardInput<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("linear_backward_input", "d_out", self.d_out.len(), s.rows * s.d_out, s);
        same("linear_backward_input", "weight", self.weight.len(), s.d_out * s.d_in, s);
        same("linear_backward_input", "d_inp", self.d_inp.len(), s.rows * s.d_in, s);
        if let InputGrad::ThroughActivation { pre, .. } = &self.write {
            same("linear_backward_input", "pre", pre.len(), s.rows * s.d_in, s);
        }
    }
}

/// See [`Backend::linear_backward_weight`].
pub struct LinearBackwardWeight<'a, B: Backend> {
    /// `[N, d_out]`.
    pub d_out: &'a Elems<B>,
    /// `[N, d_in]`.
    pub inp: &'a Elems<B>,
    /// `[d_out, d_in]`, added to.
    pub d_weight: &'a mut Accs<B>,
    /// `[d_out]`, added to.
    pub d_bias: Option<&'a mut Accs<B>>,
    /// Sizes of the forward.
    pub shape: LinearShape,
}

impl<B: Backend> LinearBackwardWeight<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("linear_backward_weight", "d_out", self.d_out.len(), s.rows * s.d_out, s);
        same("linear_backward_weight", "inp", self.inp.len(), s.rows * s.d_in, s);
        same("linear_backward_weight", "d_weight", self.d_weight.len(), s.d_out * s.d_in, s);
        if let Some(bias) = &self.d_bias {
            same("linear_backward_weight", "d_bias", bias.len(), s.d_out, s);
        }
    }
}

/// See [`Backend::activate`]. All buffers have one length.
pub struct Activate<'a, B: Backend> {
    /// Input.
    pub inp: &'a Elems<B>,
    /// Output.
    pub out: &'a mut Elems<B>,
    /// The function.
    pub activation: Activation,
}

impl<B: Backend> Activate<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        same("activate", "out", self.out.len(), self.inp.len(), &"inp");
    }
}

/// See [`Backend::activate_backward`]: `d_inp = d_out * activation'(inp)`. All buffers have one length.
pub struct ActivateBackward<'a, B: Backend> {
    /// Gradient of the output.
    pub d_out: &'a Elems<B>,
    /// Input of the forward.
    pub inp: &'a Elems<B>,
    /// Gradient of the input.
    pub d_inp: &'a mut Elems<B>,
    /// The function.
    pub activation: Activation,
}

impl<B: Backend> ActivateBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        same("activate_backward", "d_out", self.d_out.len(), self.inp.len(), &"inp");
        same("activate_backward", "d_inp", self.d_inp.len(), self.inp.len(), &"inp");
    }
}

/// See [`Backend::gate`]: `out = activation(gate) * up` (SwiGLU with [`Activation::Silu`], Shazeer 2020).
pub struct Gate<'a, B: Backend> {
    /// Gate branch, before the activation.
    pub gate: &'a Elems<B>,
    /// Linear branch.
    pub up: &'a Elems<B>,
    /// Product.
    pub out: &'a mut Elems<B>,
    /// How many elements, from the beginning of each buffer.
    pub len: usize,
    /// The function.
    pub activation: Activation,
}

impl<B: Backend> Gate<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        at_least("gate", "gate", self.gate.len(), self.len, &"len");
        at_least("gate", "up", self.up.len(), self.len, &"len");
        at_least("gate", "out", self.out.len(), self.len, &"len");
    }
}

/// See [`Backend::gate_backward`].
pub struct GateBackward<'a, B: Backend> {
    /// Gradient of the product.
    pub d_out: &'a Elems<B>,
    /// Gate branch of the forward.
    pub gate: &'a Elems<B>,
    /// Linear branch of the forward.
    pub up: &'a Elems<B>,
    /// Gradient of the gate branch.
    pub d_gate: &'a mut Elems<B>,
    /// Gradient of the linear branch.
    pub d_up: &'a mut Elems<B>,
    /// The function.
    pub activation: Activation,
}

impl<B: Backend> GateBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        for (field, len) in [
            ("d_out", self.d_out.len()),
            ("up", self.up.len()),
            ("d_gate", self.d_gate.len()),
            ("d_up", self.d_up.len()),
        ] {
            same("gate_backward", field, len, self.gate.len(), &"gate");
        }
    }
}

/// See [`Backend::rope`]: `(a, b) -> (a cos - b sin, b cos + a sin)` for `a = x[i]`, `b = x[i + d_rot / 2]`.
/// Buffers of rows may be longer than `rows` needs: their beginning is used.
pub struct Rope<'a, B: Backend> {
    /// `[N, row_width]`, rotated in place.
    pub x: &'a mut Elems<B>,
    /// `[n_positions, d_rot]`: the cosines of the `d_rot / 2` angles of a position, then their sines.
    pub table: &'a Accs<B>,
    /// `[N]`, each below `n_positions`.
    pub positions: &'a Ids<B>,
    /// Sizes.
    pub shape: RopeShape,
}

impl<B: Backend> Rope<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("rope", "x", self.x.len(), s.rows * s.row_width, s);
        same("rope", "table", self.table.len(), s.n_positions * s.d_rot, s);
        at_least("rope", "positions", self.positions.len(), s.rows, s);
        at_least("rope", "row_width", s.row_width, s.n_heads * s.d_head, s);
        assert!(s.d_rot.is_multiple_of(2) && s.d_rot <= s.d_head, "rope: d_rot must be even and at most d_head: {s:?}");
    }
}

/// See [`Backend::attention`].
pub struct Attention<'a, B: Backend> {
    /// `[N, (H + 2K) D]`.
    pub qkv: &'a Elems<B>,
    /// `[N, H D]`.
    pub out: &'a mut Elems<B>,
    /// `[N, H]`: natural log of the sum of the exponentials of the scaled scores, for the backward.
    pub lse: &'a mut Accs<B>,
    /// Sizes.
    pub shape: AttnShape,
}

impl<B: Backend> Attention<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        check_heads("attention", s.n_heads, s.n_kv_heads);
        assert!(s.window != Some(0), "attention: a window of 0 sees nothing: {s:?}");
        same("attention", "qkv", self.qkv.len(), s.rows() * s.qkv_width(), s);
        same("attention", "out", self.out.len(), s.rows() * s.out_width(), s);
        same("attention", "lse", self.lse.len(), s.rows() * s.n_heads, s);
    }
}

/// See [`Backend::attention_backward`].
pub struct AttentionBackward<'a, B: Backend> {
    /// `[N, (H + 2K) D]`, from the forward.
    pub qkv: &'a Elems<B>,
    /// `[N, H D]`, from the forward.
    pub out: &'a Elems<B>,
    /// `[N, H]`, from the forward.
    pub lse: &'a Accs<B>,
    /// `[N, H D]`.
    pub d_out: &'a Elems<B>,
    /// `[N, (H + 2K) D]`.
    pub d_qkv: &'a mut Elems<B>,
    /// Sizes.
    pub shape: AttnShape,
}

impl<B: Backend> AttentionBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        check_heads("attention_backward", s.n_heads, s.n_kv_heads);
        assert!(s.window != Some(0), "attention_backward: a window of 0 sees nothing: {s:?}");
        same("attention_backward", "qkv", self.qkv.len(), s.rows() * s.qkv_width(), s);
        same("attention_backward", "out", self.out.len(), s.rows() * s.out_width(), s);
        same("attention_backward", "lse", self.lse.len(), s.rows() * s.n_heads, s);
        same("attention_backward", "d_out", self.d_out.len(), s.rows() * s.out_width(), s);
        same("attention_backward", "d_qkv", self.d_qkv.len(), s.rows() * s.qkv_width(), s);
    }
}

/// See [`Backend::head_loss`]: `losses[n] = logsumexp(weight . inp[n]) - (weight . inp[n])[targets[n]]`, in nats, and 0
/// where the target is [`IGNORE_TARGET`].
pub struct HeadLoss<'a, B: Backend> {
    /// `[N, C]`.
    pub inp: &'a Elems<B>,
    /// `[V, C]`.
    pub weight: &'a Elems<B>,
    /// `[N]`, each below `V` or [`IGNORE_TARGET`].
    pub targets: &'a Ids<B>,
    /// `[N]`.
    pub losses: &'a mut Accs<B>,
    /// Workspace for the logits of some rows: `[R, V]` for any `R >= 1`. Rows are taken `R` at a time.
    pub logits: &'a mut Accs<B>,
    /// Sizes.
    pub shape: HeadShape,
}

impl<B: Backend> HeadLoss<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("head_loss", "inp", self.inp.len(), s.rows * s.d_model, s);
        same("head_loss", "weight", self.weight.len(), s.n_vocab * s.d_model, s);
        same("head_loss", "targets", self.targets.len(), s.rows, s);
        same("head_loss", "losses", self.losses.len(), s.rows, s);
        at_least("head_loss", "logits", self.logits.len(), s.n_vocab, s);
    }
}

/// See [`Backend::head_loss_backward`].
pub struct HeadLossBackward<'a, B: Backend> {
    /// `[N, C]`.
    pub inp: &'a Elems<B>,
    /// `[V, C]`.
    pub weight: &'a Elems<B>,
    /// `[N]`, each below `V` or [`IGNORE_TARGET`].
    pub targets: &'a Ids<B>,
    /// `[N]`.
    pub losses: &'a mut Accs<B>,
    /// Workspace, as in [`HeadLoss::logits`].
    pub logits: &'a mut Accs<B>,
    /// `[N, C]`.
    pub d_inp: &'a mut Elems<B>,
    /// `[V, C]`, added to.
    pub d_weight: &'a mut Accs<B>,
    /// Gradients are those of `grad_scale * sum(losses)`.
    pub grad_scale: f32,
    /// Sizes.
    pub shape: HeadShape,
}

impl<B: Backend> HeadLossBackward<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        same("head_loss_backward", "inp", self.inp.len(), s.rows * s.d_model, s);
        same("head_loss_backward", "weight", self.weight.len(), s.n_vocab * s.d_model, s);
        same("head_loss_backward", "targets", self.targets.len(), s.rows, s);
        same("head_loss_backward", "losses", self.losses.len(), s.rows, s);
        at_least("head_loss_backward", "logits", self.logits.len(), s.n_vocab, s);
        same("head_loss_backward", "d_inp", self.d_inp.len(), s.rows * s.d_model, s);
        same("head_loss_backward", "d_weight", self.d_weight.len(), s.n_vocab * s.d_model, s);
    }
}

/// See [`Backend::adamw`]. All buffers have one length.
pub struct AdamW<'a, B: Backend> {
    /// The weight the model computes with. Rounded from `master` if there is one, else updated itself.
    pub weight: &'a mut Elems<B>,
    /// The exact weight, for `Elem` narrower than `Acc`.
    pub master: Option<&'a mut Accs<B>>,
    /// Gradient.
    pub grad: &'a Accs<B>,
    /// First moment.
    pub m: &'a mut Accs<B>,
    /// Second moment.
    pub v: &'a mut Accs<B>,
    /// Numbers of this step.
    pub step: AdamWStep,
}

impl<B: Backend> AdamW<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let n = self.weight.len();
        if let Some(master) = &self.master {
            same("adamw", "master", master.len(), n, &"weight");
        }
        same("adamw", "grad", self.grad.len(), n, &"weight");
        same("adamw", "m", self.m.len(), n, &"weight");
        same("adamw", "v", self.v.len(), n, &"weight");
    }
}
