//! SentencePiece's compiled character map (`precompiled_charsmap`): which characters become which text.
//!
//! The format (SentencePiece, `normalizer.cc`): the length of a double-array trie in bytes, as 32 bits; the trie, in
//! units of 32 bits; and texts with a NUL behind each. The trie (Darts-clone) maps the UTF-8 of characters to the place
//! where their text starts. All numbers are little-endian.

use std::fmt;

use unicode_segmentation::UnicodeSegmentation;

/// Longest grapheme cluster that is looked up as a whole, in bytes. Longer ones are looked up character by character.
const MAX_CLUSTER: usize = 5;

/// A character map.
pub(crate) struct Charsmap {
    /// As files have it.
    blob: Vec<u8>,
    units: Vec<u32>,
    texts: String,
    /// Whether each ASCII character stays as it is.
    kept: [bool; 128],
}

impl Charsmap {
    /// Reads a map; the error says what is wrong with it.
    pub(crate) fn new(blob: &[u8]) -> Result<Self, String> {
        let (length, rest) = blob.split_first_chunk::<4>().ok_or("shorter than its first number")?;
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || !length.is_multiple_of(4) || length > rest.len() {
            return Err(format!(
                "says that its trie has {length} bytes; it has {} bytes after that number",
                rest.len()
            ));
        }
        let (trie, texts) = rest.split_at(length);
        let texts = std::str::from_utf8(texts).map_err(|error| format!("its texts are not UTF-8: {error}"))?.to_owned();
        let (units, _) = trie.as_chunks::<4>();
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let mut map = Self { blob: blob.to_vec(), units, texts, kept: [false; 128] };
        for byte in 0..128u8 {
            map.kept[usize::from(byte)] = map.find(&[byte]).is_none();
        }
        Ok(map)
    }

    /// The content of a file that [`Self::new`] reads.
    pub(crate) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The text of the shortest key that `text` starts with, which need not be all of `text`: so Hugging Face's library
    /// has it.
    fn find(&self, text: &[u8]) -> Option<&str> {
        let mut node = offset(*self.units.first()?);
        for byte in text.iter().take_while(|byte| **byte != 0) {
            node ^= usize::from(*byte);
            let unit = *self.units.get(node)?;
            if label(unit) != u32::from(*byte) {
                return None;
            }
            node ^= offset(unit);
            if has_value(unit) {
                return self.text_at(*self.units.get(node)?);
            }
        }
        None
    }

    /// The text that a unit's value points to; nothing where it points outside.
    fn text_at(&self, unit: u32) -> Option<&str> {
        let text = self.texts.get((unit & 0x7fff_ffff) as usize..)?;
        text.split('\0').next()
    }

    /// The mapped text; `None` when it stays as it is. Bytes that are no UTF-8 stay as they are.
    pub(crate) fn apply(&self, text: &[u8]) -> Option<Vec<u8>> {
        if text.iter().all(|byte| self.kept.get(usize::from(*byte)) == Some(&true)) {
            return None;
        }
        let mut out = Vec::with_capacity(text.len() + text.len() / 8);
        for chunk in text.utf8_chunks() {
            for cluster in chunk.valid().graphemes(true) {
                let whole = Some(cluster).filter(|cluster| cluster.len() <= MAX_CLUSTER);
                if let Some(mapped) = whole.and_then(|cluster| self.find(cluster.as_bytes())) {
                    out.extend_from_slice(mapped.as_bytes());
                    continue;
                }
                for character in cluster.chars() {
                    let mut buffer = [0; 4];
                    let character = character.encode_utf8(&mut buffer).as_bytes();
                    out.extend_from_slice(self.find(character).map_or(character, str::as_bytes));
                }
            }
            out.extend_from_slice(chunk.invalid());
        }
        Some(out)
    }
}

/// Whether a unit has a value among its children.
fn has_value(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

/// The byte that leads to a unit; a number that is no byte for a unit that holds a value.
fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

/// What the place of a unit is combined with to give the places of its children.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

impl PartialEq for Charsmap {
    fn eq(&self, other: &Self) -> bool {
        self.blob == other.blob
    }
}

/// Names the content: this text goes into a tokenizer's hash.
impl fmt::Debug for Charsmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charsmap({})", blake3::hash(&self.blob).to_hex())
    }
}
