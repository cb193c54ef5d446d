//! The models that are served: known by name from the start, loaded when they are first asked for.

mod registry;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use verve_chat::ChatFormat;
use verve_constrain::Rules;
use verve_engine::{EngineHandle, Vocabulary};
use verve_tokenizer::Tokenizer;

pub use registry::{Registry, SlotState, SlotStatus};

/// What is known of a model before it is loaded.
#[derive(Debug, Clone)]
pub struct ModelEntry {
    /// The name that requests give.
    pub name: String,
    /// When its files were made, seconds since 1970.
    pub created: u64,
    /// Memory that it takes when it is loaded, bytes.
    pub bytes: u64,
    /// Longest sequence, prompt and answer together.
    pub n_ctx: usize,
}

/// Finds and loads models. Loading may take long: it is called on a thread that may wait.
pub trait ModelLoader: Send + Sync + 'static {
    /// The models there are; at least one. Asked once.
    fn entries(&self) -> Vec<ModelEntry>;

    /// Loads one of them and starts its engine.
    ///
    /// # Errors
    /// Why it cannot be loaded, for people.
    fn load(&self, name: &str) -> Result<Loaded, String>;
}

/// A model with a running engine.
pub struct Loaded {
    /// The name that requests give.
    pub name: String,
    /// The way to the engine.
    pub engine: EngineHandle,
    /// Ends when all handles are gone.
    pub thread: Option<JoinHandle<()>>,
    /// Text to ids.
    pub tokenizer: Arc<Tokenizer>,
    /// Ids to text, as the engine has it.
    pub vocabulary: Arc<Vocabulary>,
    /// How it converses; `None` where it has no template.
    pub chat: Option<ChatFormat>,
    /// Constraints on its answers.
    pub rules: Rules,
    /// Longest sequence, prompt and answer together.
    pub n_ctx: usize,
    /// Numbers in an embedding.
    pub d_model: usize,
    /// Names model, program and instruction set: what an answer depends on besides the request.
    pub fingerprint: String,
    /// Requests that the engine takes at once, waiting ones included.
    pub queue_limit: usize,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("name", &self.name).finish_non_exhaustive()
    }
}
