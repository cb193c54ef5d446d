//! Standard base64 with padding (RFC 4648, section 4), as tiktoken's files and character maps have it.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0usize, |word, i| word << 8 | group.get(i).map_or(0, |byte| usize::from(*byte)));
        for i in 0..4 {
            text.push(if i <= group.len() { char::from(DIGITS[word >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    text
}

/// The bytes of a text; `None` when it is no base64.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let mut bits = 0u32;
    let mut held = 0;
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn base64_of_the_specification() {
        let known = [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")];
        for (encoded, plain) in known {
            assert_eq!(decode(encoded).as_deref(), Some(plain.as_bytes()));
            assert_eq!(encode(plain.as_bytes()), encoded);
        }
        assert_eq!(decode("+/+/").as_deref(), Some([0xfb, 0xff, 0xbf].as_slice()));
        for wrong in ["Z", "Zg", "Zg=", "Z===", "Zm9*", "Z g=", "===="] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
