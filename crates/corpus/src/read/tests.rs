use proptest::prelude::*;

use super::cut_at;

#[test]
fn cuts_prefer_lone_line_ends_then_lone_spaces() {
    // The limit is the whole text but for one byte; what counts is the place.
    fn cut(text: &str) -> &str {
        &text[..cut_at(text, text.len() - 1)]
    }
    assert_eq!(cut("aaaa bbbb\ncccc dddd eeee"), "aaaa bbbb\ncccc dddd", "a line end in the first half is not taken");
    assert_eq!(cut("aaaa bbbb cc\ndddd eeee"), "aaaa bbbb cc\n");
    assert_eq!(cut("aaaa bbbb cc\n\ndd eeee"), "aaaa bbbb cc\n\ndd");
    assert_eq!(cut("aaaa bbbb cc \ndddd  ee"), "aaaa bbbb cc \n");
    assert_eq!(cut("aaaabbbbccddd  eeeefff"), "aaaabbbbccddd  ");
    assert_eq!(cut("aaaaaaaaaaaaaaaaaa"), "aaaaaaaaaaaaaaaaa");
    assert_eq!(cut("ääääääääää"), "äääääääää");
}

proptest! {
    #[test]
    fn cuts_lie_between_characters_and_within_the_limit(text in "[ a\nä\u{2003}\u{1f600}]{17,200}", limit in 64_usize..100) {
        prop_assume!(text.len() > limit);
        let cut = cut_at(&text, limit);
        prop_assert!(cut > 0 && cut <= limit);
        prop_assert!(text.is_char_boundary(cut));
        // Nothing that comes after the limit plays a part.
        let longer = format!("{text} and\nmore");
        prop_assert_eq!(cut_at(&longer, limit), cut);
    }
}
