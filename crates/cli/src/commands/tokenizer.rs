//! `verve tokenizer`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use verve_tokenizer::{SpecialTokens, Tokenizer};

use super::text::{self, Text};
use crate::args::{
    MachineArgs, TokenizerCommand, TokenizerDecodeArgs, TokenizerEncodeArgs, TokenizerInspectArgs, TokenizerTrainArgs,
};
use crate::output;

/// Ids printed a line by `encode`.
const IDS_A_LINE: usize = 20;

pub fn run(machine: &MachineArgs, command: TokenizerCommand) -> Result<()> {
    match command {
        TokenizerCommand::Train(args) => train(machine, args),
        TokenizerCommand::Encode(args) => encode(args),
        TokenizerCommand::Decode(args) => decode(args),
        TokenizerCommand::Inspect(args) => inspect(args),
    }
}

fn train(machine: &MachineArgs, args: TokenizerTrainArgs) -> Result<()> {
    text::use_threads(machine)?;
    check_writable(&args.out)?;
    let tokenizer = text::train_tokenizer(&Text::new(&args.text), args.vocab)?;
    tokenizer.save(&args.out)?;
    output::line(format!("wrote {}: {} tokens, hash {}", args.out.display(), tokenizer.n_vocab(), tokenizer.hash()))
}

/// Makes the folder of a file that is to be written and tries to write there: training takes long, and its result must not
/// be lost. The file itself is not touched.
fn check_writable(file: &Path) -> Result<()> {
    let folder = if file.is_dir() { file } else { file.parent().unwrap_or(Path::new("")) };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut trial = file.file_name().unwrap_or_default().to_owned();
    trial.push(format!(".{}.tmp", std::process::id()));
    let trial = folder.join(trial);
    std::fs::File::create(&trial)
        .and_then(|_| std::fs::remove_file(&trial))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn encode(args: TokenizerEncodeArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let text = read_text(&args.text)?;
    let specials = if args.special { SpecialTokens::Parse } else { SpecialTokens::Ordinary };
    let ids = tokenizer.encode_with(&text, specials);
    if args.pieces {
        for id in ids {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            output::line(format!("{id:>8}  {:?}", String::from_utf8_lossy(bytes)))?;
        }
        return Ok(());
    }
    for line in ids.chunks(IDS_A_LINE) {
        let words: Vec<String> = line.iter().map(u32::to_string).collect();
        output::line(words.join(" "))?;
    }
    Ok(())
}

fn decode(args: TokenizerDecodeArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let text = read_text(&args.ids)?;
    let mut ids = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()) {
        ids.push(word.parse::<u32>().with_context(|| format!("{}: {word:?} is not a token id", args.ids.display()))?);
    }
    output::piece(&tokenizer.decode(&ids)?)
}

fn inspect(args: TokenizerInspectArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let summary = tokenizer.summary();
    output::line(format!("model         {}", tokenizer.kind().name()))?;
    output::line(format!("tokens        {}", summary.n_vocab))?;
    output::line(format!("merges        {}", summary.n_merges))?;
    output::line(format!("unused ids    {}", summary.n_unused))?;
    output::line(format!("unreachable   {}", summary.n_unreachable))?;
    output::line(format!("splitter      {}", tokenizer.pre_split().name()))?;
    let roles =
        [("begins text", tokenizer.bos(), tokenizer.adds_bos()), ("ends text", tokenizer.eos(), tokenizer.adds_eos())];
    for (role, id, is_put) in roles {
        let Some(id) = id else { continue };
        let text = String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default());
        let put = if is_put { ", put there" } else { "" };
        output::line(format!("{role:<13} {id} {text:?}{put}"))?;
    }
    let longest = tokenizer.token_bytes(summary.longest).unwrap_or_default();
    output::line(format!("longest token {} {:?}", summary.longest, String::from_utf8_lossy(longest)))?;
    for token in &summary.added {
        let kind = if token.special { "special" } else { "added" };
        output::line(format!("{kind:<13} {} {:?}", token.id, token.content))?;
    }
    output::line(format!("hash          {}", tokenizer.hash()))
}

/// Reads a whole UTF-8 text file, or standard input for `-`.
fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => bail!(
            "{}: not UTF-8 text: byte {} is not part of a character; convert the file first",
            path.display(),
            error.utf8_error().valid_up_to()
        ),
    }
}
