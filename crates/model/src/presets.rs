//! Model sizes by name.
//!
//! GPT-3's eight sizes follow Brown et al. 2020, table 2.1, with its two slips corrected from the parameter counts of
//! table D.1: XL has 16 heads of 128, and 13B is 5120 wide. The paper leaves the band of its sparse layers open; 256 is
//! GPT-Neo's.

use crate::config::*;
use crate::error::{ModelError, nearest};

/// Entries in the vocabulary of GPT-2 and GPT-3.
pub const GPT_VOCAB: usize = 50_257;

/// What the table below knows about a size: name, layers, width, heads, context.
type Row = (&'static str, usize, usize, usize, usize);

const GPT3: [Row; 8] = [
    ("gpt3-125m", 12, 768, 12, 2048),
    ("gpt3-350m", 24, 1024, 16, 2048),
    ("gpt3-760m", 24, 1536, 16, 2048),
    ("gpt3-1.3b", 24, 2048, 16, 2048),
    ("gpt3-2.7b", 32, 2560, 32, 2048),
    ("gpt3-6.7b", 32, 4096, 32, 2048),
    ("gpt3-13b", 40, 5120, 40, 2048),
    ("gpt3-175b", 96, 12_288, 96, 2048),
];

const GPT2: [Row; 4] = [
    ("gpt2", 12, 768, 12, 1024),
    ("gpt2-medium", 24, 1024, 16, 1024),
    ("gpt2-large", 36, 1280, 20, 1024),
    ("gpt2-xl", 48, 1600, 25, 1024),
];

/// Sizes a CPU trains in minutes to hours. Heads of 64 and no query/key/value bias: exactly GPT-Neo's shape, so that a
/// trained model opens in transformers.
const CPU: [Row; 4] =
    [("nano", 4, 128, 2, 128), ("tiny", 6, 192, 3, 256), ("mini", 6, 384, 6, 256), ("small-cpu", 8, 512, 8, 512)];

/// Names of all presets, smallest first within a family.
pub fn names() -> impl Iterator<Item = &'static str> {
    CPU.iter().chain(&GPT2).chain(&GPT3).map(|row| row.0)
}

impl ModelConfig {
    /// The preset `name`. `n_vocab` replaces the vocabulary of GPT-2 and GPT-3; the presets for CPUs (`nano`, `tiny`,
    /// `mini`, `small-cpu`) are meant to be given one that fits the text.
    ///
    /// # Errors
    /// [`ModelError::UnknownPreset`], with the most similar name.
    pub fn preset(name: &str, n_vocab: Option<usize>) -> Result<Self, ModelError> {
        let alias = if name == "gpt3-small" { "gpt3-125m" } else { name };
        let find = |table: &[Row]| table.iter().copied().find(|row| row.0 == alias);
        let n_vocab = n_vocab.unwrap_or(GPT_VOCAB);
        if let Some(row) = find(&GPT3) {
            let attention = AttentionPattern::Alternating { band: 256 };
            return Ok(Self { attention, ..gpt(row, n_vocab) });
        }
        if let Some(row) = find(&GPT2) {
            return Ok(gpt(row, n_vocab));
        }
        if let Some(row) = find(&CPU) {
            let attention = AttentionPattern::Alternating { band: row.4 / 2 };
            return Ok(Self { attention, biases: Biases::ALL_BUT_QKV, ..gpt(row, n_vocab) });
        }
        Err(ModelError::UnknownPreset {
            name: name.to_owned(),
            nearest: nearest(name, names()),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }
}

/// A dense GPT-2.
fn gpt((_, n_layers, d_model, n_heads, n_ctx): Row, n_vocab: usize) -> ModelConfig {
    ModelConfig {
        n_layers,
        d_model,
        d_ff: 4 * d_model,
        n_heads,
        n_kv_heads: n_heads,
        d_head: d_model / n_heads,
        n_ctx,
        n_vocab,
        ..GPT_CHOICES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt3_sizes_have_the_papers_parameter_counts() {
        for (name, count) in [
            ("gpt3-125m", 125_226_240),
            ("gpt3-350m", 355_871_744),
            ("gpt3-760m", 760_300_032),
            ("gpt3-1.3b", 1_315_723_264),
            ("gpt3-2.7b", 2_651_553_280),
            ("gpt3-6.7b", 6_658_404_352),
            ("gpt3-13b", 12_853_386_240),
            ("gpt3-175b", 174_604_259_328),
        ] {
            assert_eq!(ModelConfig::preset(name, None).unwrap().n_params(), count, "{name}");
        }
        let small = ModelConfig::preset("gpt3-small", None).unwrap();
        assert_eq!(small, ModelConfig::preset("gpt3-125m", None).unwrap());
        assert_eq!([0, 1, 2, 11].map(|l| small.window(l)), [None, Some(256), None, Some(256)]);
    }

    #[test]
    fn gpt2_sizes_have_the_published_parameter_counts() {
        for (name, count) in [
            ("gpt2", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
        ] {
            let config = ModelConfig::preset(name, None).unwrap();
            assert_eq!(config.n_params(), count, "{name}");
            assert_eq!(config.window(1), None);
        }
    }

    #[test]
    fn every_preset_is_valid_and_cpu_presets_are_the_size_they_say() {
        for name in names() {
            ModelConfig::preset(name, None).unwrap().validate().unwrap();
        }
        for (name, low, high) in
            [("nano", 0.8e6, 1.3e6), ("tiny", 2.5e6, 4e6), ("mini", 10e6, 13e6), ("small-cpu", 25e6, 32e6)]
        {
            let config = ModelConfig::preset(name, Some(2048)).unwrap();
            let count = config.n_params() as f64;
            assert!((low..high).contains(&count), "{name} has {count} parameters");
            assert_eq!(config.d_head, 64);
            assert_eq!(config.window(1), Some(config.n_ctx / 2));
        }
    }

    #[test]
    fn an_unknown_preset_is_named_with_the_nearest() {
        let message = ModelConfig::preset("gpt3-125", None).unwrap_err().to_string();
        assert!(message.contains("\"gpt3-125\"") && message.contains("did you mean \"gpt3-125m\""), "{message}");
    }
}
