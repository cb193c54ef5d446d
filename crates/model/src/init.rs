//! First values of the parameters. Every element depends on (seed, tensor name, index) alone.

use verve_ops::{Backend, Real};

use crate::error::ModelError;
use crate::params::{Init, ParamSpec, Params};
use crate::rng::Stream;

/// Writes a tensor's first values, rounded to `f32` and then to `T`: a `bf16` tensor is the rounded `f32` tensor.
///
/// # Panics
/// When `out` has not [`ParamSpec::len`] elements.
pub fn fill<T: Real>(spec: &ParamSpec, seed: u64, out: &mut [T]) {
    assert!(out.len() == spec.len(), "init: {} has {} elements, not {}", spec.name, spec.len(), out.len());
    match spec.init {
        Init::Zeros => out.fill(T::from_f32(0.0)),
        Init::Ones => out.fill(T::from_f32(1.0)),
        Init::Normal { std } => {
            let stream = Stream::new(seed, &format!("init/{}", spec.name));
            stream.fill_normal(std, spec.len(), |index, value| out[index] = T::from_f32(value as f32));
        }
    }
}

/// Initialised weights (`T = B::Elem`) or master weights (`T = B::Acc`).
///
/// # Errors
/// Out of memory.
pub fn init<B: Backend, T: Real>(
    backend: &B,
    layout: &Params<ParamSpec>,
    seed: u64,
) -> Result<Params<B::Buf<T>>, ModelError> {
    layout.build(backend, |spec, out| {
        fill(spec, seed, out);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::ModelConfig;
    use crate::params::layout;

    fn filled(spec: &ParamSpec, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; spec.len()];
        fill(spec, seed, &mut out);
        out
    }

    fn std_of(values: &[f32]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        assert!(mean.abs() < 1e-3, "mean {mean}");
        (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    #[test]
    fn spreads_are_those_of_gpt2() {
        let table = layout(&ModelConfig::preset("tiny", Some(512)).unwrap());
        let layer = &table.layers[2];
        let scaled = 0.02 / 12f64.sqrt();
        for (spec, expected) in [
            (&table.tok_embed, 0.02),
            (table.pos_embed.as_ref().unwrap(), 0.02),
            (&layer.attn_qkv.weight, 0.02),
            (&layer.ffn_up.weight, 0.02),
            (&layer.attn_out.weight, scaled),
            (&layer.ffn_down.weight, scaled),
        ] {
            let found = std_of(&filled(spec, 1));
            assert!((found / expected - 1.0).abs() < 0.02, "{}: {found} instead of {expected}", spec.name);
        }
        assert!(filled(&layer.ffn_up.bias.clone().unwrap(), 1).iter().all(|&v| v == 0.0));
        assert!(filled(&layer.attn_norm.as_ref().unwrap().weight, 1).iter().all(|&v| v == 1.0));
    }

    #[test]
    fn a_tensor_depends_on_seed_and_name_only() {
        let table = layout(&ModelConfig::preset("nano", Some(300)).unwrap());
        let a = filled(&table.layers[0].ffn_up.weight, 5);
        assert_eq!(a, filled(&table.layers[0].ffn_up.weight, 5));
        assert_ne!(a, filled(&table.layers[0].ffn_up.weight, 6));
        assert_ne!(a, filled(&table.layers[1].ffn_up.weight, 5));
        // A longer tensor of the same name begins with the same values: elements are addressed, not drawn in turn.
        let mut longer = table.layers[0].ffn_up.weight.clone();
        longer.shape[0] += 3;
        assert_eq!(filled(&longer, 5)[..a.len()], a);
        let mut short = vec![bf16::ZERO; a.len()];
        fill(&table.layers[0].ffn_up.weight, 5, &mut short);
        assert!(short.iter().zip(&a).all(|(s, &f)| *s == bf16::from_f32(f)));
    }
}
