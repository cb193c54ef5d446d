//! Small random models of each family.

use verve_engine::*;
use verve_model::*;
use verve_ops::{Backend, InferBackend, Real};

pub const N_VOCAB: usize = 40;

/// A model and what it takes to run it.
pub struct Model<B: InferBackend> {
    pub name: &'static str,
    pub backend: B,
    pub config: ModelConfig,
    pub weights: Weights<B>,
    pub vocabulary: Vocabulary,
}

impl<B: InferBackend> Model<B> {
    /// Weights far from any special value, the same on every machine up to rounding.
    pub fn random(backend: B, name: &'static str, config: ModelConfig) -> Self {
        let fill = |spec: &ParamSpec, out: &mut [<B as Backend>::Elem]| {
            let (mean, std) = match (spec.shape.len(), spec.name.ends_with("bias")) {
                (2, _) => (0.0, 0.2),
                (_, true) => (0.0, 0.1),
                _ => (1.0, 0.2),
            };
            let stream = rng::Stream::new(11, &spec.name);
            stream.fill_normal(std, spec.len(), |i, noise| out[i] = Real::from_f64(mean + noise));
            Ok(())
        };
        let weights = layout(&config).build::<B, _>(&backend, fill).expect("memory");
        // Single bytes, halves of characters and an end of text that no text shows.
        let bytes = (0..N_VOCAB as u8).map(|id| match id {
            0..30 => vec![b'a' + id % 26],
            30..38 => vec![[0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xff, b' ', b'\n'][usize::from(id) - 30]],
            _ => Vec::new(),
        });
        let vocabulary = Vocabulary::from_bytes(bytes).with_end_of_text([39]).with_start(Some(39));
        Self { name, backend, config, weights, vocabulary }
    }

    pub fn network(&self) -> Network<'_, B> {
        Network { backend: &self.backend, config: &self.config, weights: &self.weights }
    }

    pub fn engine(&self, options: &EngineOptions) -> Engine<'_, B> {
        Engine::from_network(self.network(), &self.vocabulary, options).expect("memory")
    }

    pub fn records(&self, options: &EngineOptions, requests: &[Request]) -> Vec<super::Record> {
        let mut engine = self.engine(options);
        super::records(requests.len(), |cancel, on_event| engine.generate(requests, cancel, on_event))
    }
}

/// One small configuration of each kind: GPT-2, GPT-3 and GPT-Neo (banded), Llama with grouped heads. Sequences span three
/// blocks of the cache, and bands end inside of one.
pub fn configs() -> Vec<(&'static str, ModelConfig)> {
    let gpt2 = ModelConfig {
        n_layers: 2,
        d_model: 32,
        d_ff: 48,
        n_heads: 4,
        n_kv_heads: 4,
        d_head: 8,
        n_ctx: 150,
        n_vocab: N_VOCAB,
        norm: Norm::LayerNorm,
        norm_eps: 1e-5,
        positions: Positions::Learned,
        activation: FfnActivation::GeluTanh,
        attention: AttentionPattern::Dense,
        attn_scale: AttnScale::InvSqrtHead,
        biases: Biases::ALL,
        tied_head: true,
        init_std: 0.02,
        rotary_pct: 1.0,
        rotary_scaling: RotaryScaling::None,
        rotary_local_theta: None,
        residual: Residual::Sequential,
        qk_norm: false,
        post_norms: false,
        embed_scale: EmbedScale::One,
    };
    let gpt3 = ModelConfig { attention: AttentionPattern::Alternating { band: 37 }, ..gpt2.clone() };
    let gpt_neo = ModelConfig {
        biases: Biases::ALL_BUT_QKV,
        attn_scale: AttnScale::One,
        attention: AttentionPattern::Alternating { band: 5 },
        ..gpt2.clone()
    };
    let llama = ModelConfig {
        norm: Norm::RmsNorm,
        positions: Positions::Rotary { theta: 100.0 },
        activation: FfnActivation::SwiGlu,
        n_kv_heads: 2,
        d_head: 6,
        biases: Biases::NONE,
        tied_head: false,
        ..gpt2.clone()
    };
    vec![("gpt2", gpt2), ("gpt3", gpt3), ("gpt_neo", gpt_neo), ("llama", llama)]
}
