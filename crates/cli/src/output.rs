//! Printing.

use std::io::{self, Write};

/// True when the reader of our output has gone away (`verve ... | head`), which is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// An error in one line: the contexts, then the cause. The messages of our libraries are whole, so what lies below one of
/// them is left out.
pub fn message(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        let whole = cause.is::<verve_corpus::Error>()
            || cause.is::<verve_shard::Error>()
            || cause.is::<verve_tokenizer::Error>()
            || cause.is::<verve_model::ModelError>()
            || cause.is::<verve_gguf::GgufError>()
            || cause.is::<verve_engine::EngineError>()
            || cause.is::<verve_train::TrainError>()
            || cause.is::<verve_chat::ChatError>()
            || cause.is::<verve_hub::HubError>()
            || cause.is::<verve_access::AccessError>();
        if whole {
            break;
        }
    }
    parts.join(": ")
}

/// Prints one line to standard output; a closed pipe is an error value, not a panic.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Prints a piece of text at once.
pub fn piece(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
