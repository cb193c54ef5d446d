//! Word characters, as regular expressions see them (`\w`, Unicode Technical Standard 18, annex C).

use unicode_normalization::char::is_combining_mark;

/// Whether a character is part of a word: alphabetic, a mark, a decimal digit, a connector or a joiner.
pub(crate) fn is_word(character: char) -> bool {
    let is_connector = matches!(
        character,
        '_' | '\u{203f}' | '\u{2040}' | '\u{2054}' | '\u{fe33}' | '\u{fe34}' | '\u{fe4d}'..='\u{fe4f}' | '\u{ff3f}'
    );
    character.is_alphabetic()
        || is_connector
        || matches!(character, '\u{200c}' | '\u{200d}')
        || is_digit(character)
        || is_combining_mark(character)
}

/// Whether a character is a decimal digit (`\p{Nd}`): ten in a row from each zero on.
fn is_digit(character: char) -> bool {
    let code = u32::from(character);
    let index = ZEROS.partition_point(|zero| *zero <= code);
    index > 0 && code < ZEROS[index - 1] + 10
}

/// The digit zero of every script.
#[rustfmt::skip]
static ZEROS: [u32; 77] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6,
    0xd66, 0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80,
    0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0,
    0xff10, 0x104a0, 0x10d30, 0x10d40, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x116d0, 0x116da, 0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50, 0x11da0, 0x11de0, 0x11f50,
    0x16130, 0x16a60, 0x16ac0, 0x16b50, 0x16d70, 0x1ccf0, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140,
    0x1e2f0, 0x1e4f0, 0x1e5f1, 0x1e950, 0x1fbf0,
];
