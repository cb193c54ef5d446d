//! tiktoken rank files: a line for each token, its bytes in base64, a space, its rank.
//!
//! There, any two adjacent tokens merge whose joined bytes are a token, lowest rank first. That is a merge list with
//! every way to cut each token in two, in order of the token's rank.

use std::collections::{HashMap, HashSet};

use super::pair::shorten;
use crate::base64;
use crate::error::{Error, Result};
use crate::rules::Rules;
use crate::split::PreSplit;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use crate::vocab::{AddedToken, Parts};

/// Published rank files that need another splitter, by their number of tokens.
const OTHER_SPLITTERS: [(usize, &str); 5] =
    [(100_256, "cl100k_base"), (199_998, "o200k_base"), (128_000, "Llama 3"), (151_643, "Qwen"), (151_851, "Qwen")];

/// Most bytes of tokens and longest token of a rank file. Each token is looked up once for each way to cut it in two,
/// which takes time with the square of its length; the largest published files have 1.5 MB, and tokens up to 128 bytes.
const MAX_TOTAL_BYTES: usize = 1 << 24;
const MAX_RANKED_BYTES: usize = 1 << 10;

/// Reads a rank file into a tokenizer.
pub(super) fn parse(origin: &str, content: &[u8], added: Option<Vec<AddedToken>>) -> Result<Tokenizer> {
    let text = std::str::from_utf8(content)
        .map_err(|error| Error::malformed(origin, "rank file", format!("not text: {error}")))?;
    let mut tokens = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.is_empty() {
            continue;
        }
        tokens.push(parse_line(line).ok_or_else(|| {
            let problem = format!("{:?}; expected a token in base64, a space and its rank", shorten(line));
            Error::malformed(origin, format!("line {number}"), problem)
        })?);
    }
    if let Some((_, name)) = OTHER_SPLITTERS.iter().find(|(count, _)| *count == tokens.len()) {
        let field = format!("the splitter of {name} (a rank file of {} tokens)", tokens.len());
        return Err(Error::unsupported(origin, "pre-splitter:", field, "gpt2 (r50k_base, p50k_base and trained ones)"));
    }
    let added = added.unwrap_or_else(|| vec![end_of_text(&tokens)]);
    let merges = all_cuts(origin, &tokens)?;
    Tokenizer::from_parts(
        origin,
        Parts { split: PreSplit::Gpt2, tokens, merges, added, whole_pieces: true, rules: Rules::default() },
    )
}

fn parse_line(line: &str) -> Option<(Vec<u8>, u32)> {
    let (token, rank) = line.split_once(' ')?;
    Some((base64::decode(token)?, rank.trim_end().parse().ok()?))
}

/// `<|endoftext|>` at the first id that no token has.
fn end_of_text(tokens: &[(Vec<u8>, u32)]) -> AddedToken {
    let taken: HashSet<u32> = tokens.iter().map(|(_, id)| *id).collect();
    let id = (0..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX);
    AddedToken::special(END_OF_TEXT, id)
}

/// Every pair of tokens that makes a token, in order of the made token's rank.
fn all_cuts(origin: &str, tokens: &[(Vec<u8>, u32)]) -> Result<Vec<(u32, u32)>> {
    let ids: HashMap<&[u8], u32> = tokens.iter().map(|(bytes, id)| (bytes.as_slice(), *id)).collect();
    let total: usize = tokens.iter().map(|(bytes, _)| bytes.len()).sum();
    let longest = tokens.iter().map(|(bytes, _)| bytes.len()).max().unwrap_or(0);
    if total > MAX_TOTAL_BYTES || longest > MAX_RANKED_BYTES {
        let problem =
            format!("{total} bytes of tokens, the longest {longest}; limits {MAX_TOTAL_BYTES} and {MAX_RANKED_BYTES}");
        return Err(Error::malformed(origin, "rank file", problem));
    }
    let mut by_rank: Vec<&(Vec<u8>, u32)> = tokens.iter().collect();
    by_rank.sort_by_key(|(_, id)| *id);
    let mut cuts = Vec::new();
    for (bytes, _) in by_rank {
        for middle in 1..bytes.len() {
            let (left, right) = bytes.split_at(middle);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                cuts.push((*left, *right));
            }
        }
    }
    Ok(cuts)
}
