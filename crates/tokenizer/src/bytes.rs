//! The printable spelling of bytes in `vocab.json`, `merges.txt` and `tokenizer.json` (GPT-2's `bytes_to_unicode`).
//!
//! Printable Latin-1 bytes stand for themselves; the n-th of the other 68 bytes is written as code point 256 + n.

/// Whether GPT-2's files write this byte as the Latin-1 character of the same number.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// Bytes in the order of GPT-2's first 256 token ids: the 188 printable ones, then the others, each in rising order.
pub(crate) const BYTE_ORDER: [u8; 256] = byte_order();

const fn byte_order() -> [u8; 256] {
    let mut order = [0u8; 256];
    let mut filled = 0;
    let mut pass = 0;
    while pass < 2 {
        let mut byte = 0usize;
        while byte < 256 {
            if is_printable(byte as u8) == (pass == 0) {
                order[filled] = byte as u8;
                filled += 1;
            }
            byte += 1;
        }
        pass += 1;
    }
    order
}

/// Number of bytes that are written as themselves.
const N_PRINTABLE: usize = 188;

/// The character that stands for `byte`.
pub(crate) fn byte_to_char(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let n = BYTE_ORDER[N_PRINTABLE..].iter().position(|other| *other == byte).unwrap_or(0);
    char::from_u32(256 + n as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that `character` stands for, if it stands for one.
pub(crate) fn char_to_byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    if code < 256 {
        let byte = code as u8;
        return is_printable(byte).then_some(byte);
    }
    BYTE_ORDER[N_PRINTABLE..].get(code as usize - 256).copied()
}

/// Spells bytes with one printable character each.
pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| byte_to_char(*byte)).collect()
}

/// Reads a spelling back; `Err` holds the first character that stands for no byte.
pub(crate) fn unspell(text: &str) -> Result<Vec<u8>, char> {
    text.chars().map(|character| char_to_byte(character).ok_or(character)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_is_a_bijection_with_the_known_corners() {
        for byte in 0..=255u8 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(byte_to_char(b' '), '\u{120}');
        assert_eq!(byte_to_char(b'\n'), '\u{10a}');
        assert_eq!(byte_to_char(b'!'), '!');
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('\u{144}'), None);
        assert_eq!(char_to_byte('\u{143}'), Some(0xad));
        assert_eq!(BYTE_ORDER[0], b'!');
        assert_eq!(BYTE_ORDER[187], 255);
        assert_eq!(BYTE_ORDER[188], 0);
    }
}
