//! What two spellings of a word have in common.

use unicode_normalization::char::{canonical_combining_class, decompose_compatible, is_combining_mark};

/// What a character is, once case, accents, compatibility forms and invisible characters are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Part of a word.
    Word(char),
    /// A word of its own: a character of a script that is written without spaces.
    Whole(char),
    /// Between words.
    Between,
}

/// Calls `each` for what remains of `c`: nothing for accents and invisible characters, several for ligatures.
pub(crate) fn plain(c: char, each: &mut impl FnMut(Plain)) {
    if c.is_ascii() {
        let plain = if c.is_ascii_alphanumeric() { Plain::Word(c.to_ascii_lowercase()) } else { Plain::Between };
        return each(plain);
    }
    if is_invisible(c) {
        return;
    }
    decompose_compatible(c, |part| {
        // To capitals and back: ß and ſ, ς and σ, dotless ı become the same as their common forms.
        for capital in part.to_uppercase() {
            for small in capital.to_lowercase() {
                // Ligatures that only capitals take apart, such as ŉ, and İ, which small letters do.
                if is_accent(small) || is_invisible(small) {
                    continue;
                }
                each(if is_unspaced(small) {
                    Plain::Whole(small)
                } else if small.is_alphanumeric() || is_combining_mark(small) {
                    Plain::Word(small)
                } else {
                    Plain::Between
                });
            }
        }
    });
}

/// Characters that take no place: joiners, soft hyphens, marks of direction, variation selectors, tags.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// Marks on letters that can be left out: those above, below and through a letter, rings around it, and the points of Hebrew
/// and Arabic. Signs that are letters in their own right, such as the vowels of Indic scripts, are none.
fn is_accent(c: char) -> bool {
    matches!(canonical_combining_class(c), 1 | 10..=35 | 200..=240)
        || matches!(c, '\u{20d0}'..='\u{20f0}' | '\u{488}'..='\u{489}')
}

/// Scripts without spaces between words: there, every character counts as a word, so that a phrase is found anywhere.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// A phrase as it is looked for: its words, each followed by a space, with one space before; nothing if it has no words.
pub(crate) fn phrase(text: &str) -> Option<String> {
    let mut out = String::from(" ");
    let space = |out: &mut String| {
        if !out.ends_with(' ') {
            out.push(' ');
        }
    };
    for c in text.chars() {
        plain(c, &mut |part| match part {
            Plain::Word(c) => out.push(c),
            Plain::Whole(c) => {
                space(&mut out);
                out.extend([c, ' ']);
            }
            Plain::Between => space(&mut out),
        });
    }
    space(&mut out);
    (out.len() > 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_become_one() {
        for (text, expected) in [
            ("Bad", " bad "),
            ("ＢＡＤ", " bad "),
            ("b\u{200b}a\u{ad}d", " bad "),
            ("b\u{301}a\u{338}d\u{20dd}", " bad "),
            ("BÄD", " bad "),
            ("𝓫𝓪𝓭", " bad "),
            ("ⓑⓐⓓ", " bad "),
            ("Straße STRASSE", " strasse strasse "),
            ("ΣΑΣ σας", " σασ σασ "),
            ("İstanbul ıstanbul", " istanbul istanbul "),
            ("ﬁne", " fine "),
            ("self-harm", " self harm "),
            ("  don't -- ", " don t "),
            ("自杀", " 自 杀 "),
            ("x自y", " x 自 y "),
            ("नमस्ते", " नमस्ते "),
            ("שָׁלוֹם", " שלום "),
        ] {
            assert_eq!(phrase(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(phrase(" -- \u{200b}"), None);
    }
}
