//! `verve shard`.

use anyhow::Result;
use verve_shard::Existing;
use verve_tokenizer::Tokenizer;

use super::text::{self, ShardSettings, Text};
use crate::args::{MachineArgs, ShardArgs};
use crate::{device, output};

pub fn run(machine: &MachineArgs, args: ShardArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let settings = ShardSettings {
        out: &args.out,
        held_out: Some(args.held_out),
        shard_tokens: args.shard_tokens,
        threads: device::threads(machine),
        existing: Existing::Refuse,
    };
    let report = text::write_shards(&Text::new(&args.text), &tokenizer, &settings)?;
    output::line(text::describe_shards(&report))?;
    output::line(format!("wrote {} file(s) to {}", report.manifest.shards.len(), args.out.display()))
}
