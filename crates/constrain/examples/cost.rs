//! Prints what constraints cost on a vocabulary: compiling, masks, and accepting tokens with and without a limit.
//!
//! `cargo run --release -p verve-constrain --example cost -- TOKENIZER [END_ID]`, where the tokenizer is a `tokenizer.json`, a
//! folder with one, or a GGUF file.
#[path = "../tests/common/gguf.rs"]
mod gguf;

use std::sync::Arc;
use std::time::{Duration, Instant};

use verve_constrain::{Accepted, Constraint, Constraints};
use verve_tokenizer::{SpecialTokens, Tokenizer};

/// A schema as programs send them.
const PERSON: &str = r#"{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":130},
 "email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string"},"maxItems":8},
 "address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"},
 "country":{"enum":["DE","FR","UK","US"]}},"required":["street","city","country"],"additionalProperties":false}},
 "required":["name","age","tags","address"],"additionalProperties":false}"#;
/// A text under it.
const TEXT: &str = r#"{"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["mathematics", "engines", "poetry of science"], "address": {"street": "12 St James's Square, the house with the blue door", "city": "London", "country": "UK"}}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: cost TOKENIZER [END_ID]")?;
    let path = std::path::Path::new(&path);
    let tokenizer = match path.extension() {
        Some(extension) if extension == "gguf" => Arc::new(gguf::tokenizer(path)?),
        _ => Arc::new(Tokenizer::load(path)?),
    };
    let end = match arguments.next() {
        Some(id) => id.parse()?,
        None => tokenizer.eos().or(tokenizer.end_of_text()).ok_or("name the id that ends a text")?,
    };
    let start = Instant::now();
    let constraints = Constraints::new(&tokenizer, &[end])?;
    println!("{} ids; once per vocabulary: {:.1?}", constraints.n_vocab(), start.elapsed());
    let cases = [
        ("JSON object", Constraint::JsonObject, TEXT),
        ("JSON schema", Constraint::json_schema(PERSON)?, TEXT),
        (
            "regex",
            Constraint::Regex(r"[A-Z][a-z]+( [a-z]+){3,40}\.".to_owned()),
            "The quick brown fox jumps over the lazy dog.",
        ),
        (
            "grammar",
            Constraint::Grammar(
                "start: sum\nsum: term ((\"+\"|\"*\") term)*\nterm: /[0-9]+/ | \"(\" sum \")\"\n".to_owned(),
            ),
            "(12+34)*(56+(7*8))+1234567+(1*(2+(3*4)))",
        ),
    ];
    for (name, constraint, text) in &cases {
        let start = Instant::now();
        let matcher = constraints.start(constraint)?;
        let compiled = start.elapsed();
        for limit in [None, Some(200)] {
            let mut matcher = matcher.clone();
            let start = Instant::now();
            if let Some(limit) = limit {
                matcher.set_limit(limit)?;
            }
            let limited = start.elapsed();
            let mut mask = vec![0; constraints.mask_words()];
            let (mut masks, mut accepts) = (Vec::new(), Vec::new());
            for id in tokenizer.encode_with(text, SpecialTokens::Ordinary) {
                let start = Instant::now();
                matcher.mask(&mut mask)?;
                masks.push(start.elapsed());
                let start = Instant::now();
                if matcher.accept(id)? == Accepted::TooLong {
                    println!("  too long at {id}");
                    break;
                }
                accepts.push(start.elapsed());
            }
            let limit =
                limit.map_or("without limit".to_owned(), |limit| format!("limit {limit}, set in {limited:.1?}"));
            println!(
                "{name}: compiled in {compiled:.1?}, {limit}; mask {}; accept {}",
                figures(masks),
                figures(accepts)
            );
        }
    }
    Ok(())
}

fn figures(mut times: Vec<Duration>) -> String {
    times.sort();
    let total: Duration = times.iter().sum();
    let at =
        |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied();
    let (middle, most) = (at(0.5).unwrap_or_default(), times.last().copied().unwrap_or_default());
    format!("median {middle:.1?}, mean {:.1?}, most {most:.1?}", total / times.len().max(1) as u32)
}
