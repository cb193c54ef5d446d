//! What generation needs to know about a tokenizer's ids.

use verve_tokenizer::Tokenizer;

/// The bytes and the roles of each token id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// All tokens' bytes, one behind the other.
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`.
    ends: Vec<usize>,
    /// Ids that are never sampled, in order.
    excluded: Vec<u32>,
    /// Ids that end a text, in order.
    end_of_text: Vec<u32>,
    /// What an empty prompt starts from.
    start: Option<u32>,
}

impl Vocabulary {
    /// One token for each item, none with a role, none excluded.
    pub fn from_bytes<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for token in tokens {
            bytes.extend_from_slice(token.as_ref());
            ends.push(bytes.len());
        }
        Self { bytes, ends, excluded: Vec::new(), end_of_text: Vec::new(), start: None }
    }

    /// The ids of a tokenizer. Ids that stand for nothing are never sampled. Special tokens have no text in an answer.
    /// The end-of-text token, if there is one, ends a text and starts one.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let ids = 0..tokenizer.n_vocab() as u32;
        let token = |id: u32| tokenizer.token_bytes(id).unwrap_or_default();
        let special: Vec<u32> = tokenizer.added_tokens().iter().filter(|t| t.special).map(|t| t.id).collect();
        // They come in order of id.
        let is_special = |id: u32| special.binary_search(&id).is_ok();
        let mut vocabulary = Self::from_bytes(ids.clone().map(|id| if is_special(id) { &[] } else { token(id) }));
        vocabulary.excluded = ids.filter(|&id| token(id).is_empty() && !is_special(id)).collect();
        vocabulary.start = tokenizer.end_of_text();
        vocabulary.with_end_of_text(tokenizer.end_of_text())
    }

    /// Other ids that end a text.
    ///
    /// # Panics
    /// When an id is not in the vocabulary.
    #[must_use]
    pub fn with_end_of_text(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.end_of_text = self.checked(ids);
        self
    }

    /// Another id that an empty prompt starts from.
    ///
    /// # Panics
    /// When it is not in the vocabulary.
    #[must_use]
    pub fn with_start(mut self, id: Option<u32>) -> Self {
        self.start = self.checked(id).first().copied();
        self
    }

    /// Other ids that are never sampled.
    ///
    /// # Panics
    /// When an id is not in the vocabulary.
    #[must_use]
    pub fn with_excluded(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.excluded = self.checked(ids);
        self
    }

    fn checked(&self, ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        if let Some(&id) = ids.last() {
            assert!(
                (id as usize) < self.n_vocab(),
                "token {id} has a role, but the vocabulary ends at {}",
                self.n_vocab()
            );
        }
        ids
    }

    /// Number of ids. A model may have more rows; those are never sampled.
    pub fn n_vocab(&self) -> usize {
        self.ends.len()
    }

    /// What a token adds to the text.
    ///
    /// # Panics
    /// For an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..self.ends[id]]
    }

    /// Whether a token ends a text.
    pub fn ends_text(&self, id: u32) -> bool {
        self.end_of_text.binary_search(&id).is_ok()
    }

    /// How many tokens end a text.
    pub(crate) fn n_ends_of_text(&self) -> usize {
        self.end_of_text.len()
    }

    /// What an empty prompt starts from.
    pub fn start(&self) -> Option<u32> {
        self.start
    }

    /// The tokens of an empty prompt.
    pub(crate) fn start_prompt(&self) -> &[u32] {
        self.start.as_slice()
    }

    /// Ids that are never sampled, in order.
    pub fn excluded(&self) -> &[u32] {
        &self.excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_bytes_come_from_the_tokenizer() {
        let mut ranks = String::new();
        for byte in 0..=255u8 {
            ranks.push_str(&format!("{} {byte}\n", base64(&[byte])));
        }
        // Ids 256 and 257 stand for nothing.
        ranks.push_str(&format!("{} 258\n", base64(b"ab")));
        let added = vec![verve_tokenizer::AddedToken::special("<|endoftext|>", 259)];
        let tokenizer = Tokenizer::from_tiktoken(ranks.as_bytes(), Some(added)).unwrap();
        let vocabulary = Vocabulary::new(&tokenizer);
        assert_eq!(vocabulary.n_vocab(), 260);
        assert_eq!(vocabulary.bytes(0), [0]);
        assert_eq!(vocabulary.bytes(258), b"ab");
        assert_eq!(vocabulary.bytes(259), b"", "special tokens have no text");
        assert_eq!(vocabulary.excluded(), [256, 257]);
        assert!(vocabulary.ends_text(259) && !vocabulary.ends_text(258));
        assert_eq!(vocabulary.start(), Some(259));
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for group in bytes.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - group.len()));
            for place in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
                out.push(if place <= group.len() { char::from(digit) } else { '=' });
            }
        }
        out
    }
}
