//! A vocabulary in the form in which grammars walk through it.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use verve_tokenizer::Tokenizer;

use crate::error::{ConstrainError, Result};

/// The trie of a vocabulary's tokens, and how bytes become tokens.
pub(crate) struct Vocabulary {
    trie: TokTrie,
    /// Present when encoding gives back exactly the bytes that went in, so that forced text can be forced as the tokens
    /// that the model knows it by.
    tokenizer: Option<Arc<Tokenizer>>,
}

/// Longest token that the trie takes, in bytes. Longer ones (there are none in real vocabularies) are never allowed.
const MAX_TOKEN_BYTES: usize = 200;
/// Texts on which encoding is tried.
const PROBES: [&str; 4] = ["{\"a\":", "true", " x", "\n  \"b\": ["];

impl Vocabulary {
    /// Bytes of each id (none for an id that no grammar can make), special tokens by name, ids that end a text.
    pub(crate) fn new(
        tokens: impl IntoIterator<Item = Vec<u8>>,
        end: &[u32],
        tokenizer: Option<Arc<Tokenizer>>,
    ) -> Result<Self> {
        let mut words: Vec<Vec<u8>> = tokens.into_iter().collect();
        for word in &mut words {
            if word.len() > MAX_TOKEN_BYTES {
                word.clear();
            }
        }
        let Some((&first, n_vocab)) = end.first().zip(u32::try_from(words.len()).ok()) else {
            let problem = "no token ends a text; name at least one (the model's end-of-sequence id)";
            return Err(ConstrainError::Vocabulary { problem: problem.to_owned() });
        };
        if let Some(id) = end.iter().find(|&&id| id >= n_vocab) {
            let problem = format!("token {id} is to end a text, but the vocabulary has {n_vocab} ids");
            return Err(ConstrainError::Vocabulary { problem });
        }
        for &id in end {
            if words[id as usize].first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                words[id as usize] = special(&format!("<end {id}>"));
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab, first), &words).with_eos_tokens(end);
        let tokenizer = tokenizer.filter(|tokenizer| PROBES.iter().all(|text| encodes_plainly(tokenizer, text)));
        Ok(Self { trie, tokenizer })
    }

    /// The vocabulary of a tokenizer. Special tokens are no text: a grammar may only name them.
    pub(crate) fn of(tokenizer: &Arc<Tokenizer>, end: &[u32]) -> Result<Self> {
        let mut words: Vec<Vec<u8>> = (0..tokenizer.n_vocab() as u32)
            .map(|id| tokenizer.token_bytes(id).unwrap_or_default())
            // No text holds this byte, and in front of a token it would mean a special one.
            .map(|bytes| if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { bytes.to_vec() })
            .collect();
        for token in tokenizer.added_tokens().iter().filter(|token| token.special) {
            words[token.id as usize] = special(&token.content);
        }
        Self::new(words, end, Some(Arc::clone(tokenizer)))
    }

    pub(crate) fn into_env(self) -> TokEnv {
        Arc::new(self)
    }
}

/// A special token's name in the trie.
fn special(name: &str) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
}

fn encodes_plainly(tokenizer: &Tokenizer, text: &str) -> bool {
    let ids = tokenizer.encode(text);
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap_or_default()).copied().collect();
    bytes == text.as_bytes()
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if let Some(tokenizer) = &self.tokenizer {
            let mut ids = Vec::new();
            tokenizer.encode_bytes_into(bytes, &mut ids);
            let mut rest = bytes;
            let same = ids.iter().all(|&id| match rest.strip_prefix(self.trie.token(id)) {
                Some(after) if after.len() < rest.len() => {
                    rest = after;
                    true
                }
                _ => false,
            });
            if same && rest.is_empty() {
                return ids;
            }
        }
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_some()
    }
}
