//! One file a command.

use anyhow::Result;

use crate::args::{Command, Verve};

mod bench;
mod chat;
mod doctor;
mod generate;
mod gguf_metadata;
mod inspect;
mod keys;
mod model;
mod plan;
mod pull;
mod quantize;
mod quickstart;
mod report;
mod sample_text;
mod serve;
mod shard;
mod text;
mod tokenizer;
mod train;

/// Runs what the command line asks for.
pub fn run(args: Verve) -> Result<()> {
    let machine = args.machine;
    match args.command {
        Command::Quickstart(args) => quickstart::run(&machine, args),
        Command::Train(args) => train::run(&machine, *args),
        Command::Generate(args) => generate::run(&machine, args),
        Command::Chat(args) => chat::run(&machine, args),
        Command::Pull(args) => pull::run(args),
        Command::Quantize(args) => quantize::run(&machine, args),
        Command::Inspect(args) => inspect::run(&machine, args),
        Command::Tokenizer(command) => tokenizer::run(&machine, command),
        Command::Shard(args) => shard::run(&machine, args),
        Command::Plan(args) => plan::run(&machine, args),
        Command::Bench(args) => bench::run(&machine, args),
        Command::Serve(args) => serve::run(&machine, *args),
        Command::Keys(args) => keys::run(args),
        Command::Doctor => doctor::run(&machine),
        Command::Report(args) => report::run(args),
    }
}
