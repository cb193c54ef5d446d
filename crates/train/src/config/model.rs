//! Which model the settings mean.

use toml::{Table, Value};
use verve_model::formats::ModelFile;
use verve_model::presets::GPT_VOCAB;
use verve_model::{AttentionPattern, ModelConfig};

use super::{RunConfig, resolve::Known};
use crate::error::{Result, TrainError};

/// The preset of an empty `[model]`.
const DEFAULT_PRESET: &str = "tiny";

impl RunConfig {
    /// Checks everything that needs no knowledge of the data, so that a slip is found before text is read.
    ///
    /// # Errors
    /// Values that cannot be, that contradict each other, an unknown preset.
    pub fn validate(&self) -> Result<()> {
        self.check()?;
        if !self.model.is_empty() {
            described(self.model.table(), GPT_VOCAB)?.validate()?;
        }
        Ok(())
    }

    /// The model of `[model]`, or of the folder to start from, checked against the vocabulary of the data.
    pub(super) fn model_config(&self, known: &Known<'_>) -> Result<ModelConfig> {
        let config = match (&self.run.init, self.model.is_empty()) {
            (Some(init), true) => ModelFile::open(init)?.config().clone(),
            (None, true) => ModelConfig::preset(DEFAULT_PRESET, Some(known.n_vocab))?,
            (_, false) => described(self.model.table(), known.n_vocab)?,
        };
        config.validate()?;
        if config.n_vocab < known.n_vocab {
            return Err(TrainError::Data {
                problem: format!(
                    "the data has a vocabulary of {} tokens, the model only {}: leave n_vocab out of [model], or use shards \
                     made with the model's own tokenizer",
                    known.n_vocab, config.n_vocab
                ),
            });
        }
        Ok(config)
    }
}

/// The model of a `[model]` section: keys over a preset, or keys alone.
fn described(section: &Table, n_vocab: usize) -> Result<ModelConfig> {
    let mut section = section.clone();
    let Some(preset) = section.remove("preset") else {
        section.entry("n_vocab").or_insert(Value::Integer(n_vocab as i64));
        return parse(section);
    };
    let Value::String(name) = preset else {
        return Err(TrainError::setting("model", "preset", preset, "is the name of a preset, in quotes"));
    };
    let base = ModelConfig::preset(&name, Some(n_vocab))?;
    let mut table = Table::try_from(&base).map_err(|e| syntax(e.to_string()))?;
    // What follows from a replaced key is derived again.
    for (replaced, derived) in [("d_model", ["d_ff", "d_head"].as_slice()), ("n_heads", &["n_kv_heads", "d_head"])] {
        if section.contains_key(replaced) {
            derived.iter().for_each(|key| drop(table.remove(*key)));
        }
    }
    let keeps_attention = !section.contains_key("attention");
    table.extend(section);
    let mut config = parse(table)?;
    if let AttentionPattern::Alternating { band } = &mut config.attention
        && keeps_attention
        && *band * 2 == base.n_ctx
    {
        *band = config.n_ctx.div_ceil(2);
    }
    Ok(config)
}

fn parse(table: Table) -> Result<ModelConfig> {
    Value::Table(table).try_into().map_err(|e: toml::de::Error| syntax(e.message().to_owned()))
}

fn syntax(problem: String) -> TrainError {
    TrainError::ConfigSyntax { origin: "section [model]".to_owned(), problem }
}
