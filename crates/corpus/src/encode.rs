//! What the shard job needs of a tokenizer.

/// Turns text into token ids.
pub trait EncodeText: Sync {
    /// Appends the ids of `text` to `out`. Whatever looks like a special token in `text` is ordinary text.
    fn encode_into(&self, text: &str, out: &mut Vec<u32>);
    /// The id that ends a document, if the vocabulary has one.
    fn end_of_text(&self) -> Option<u32>;
    /// Size of the vocabulary.
    fn n_vocab(&self) -> usize;
    /// Hash that identifies the tokenizer.
    fn hash(&self) -> &str;
}
