//! Writes the training rows of a run, in the order in which it reads them, and its held-out tokens, as raw little-endian
//! u16: what `tools/golden/train_reference.py` trains on.
//!
//! ```text
//! cargo run --release -p verve-shard --example export_rows -- SHARDS N_CTX SEED ROWS OUT
//! ```

use std::error::Error;
use std::path::Path;

use verve_shard::{ShardSet, Split};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shards, n_ctx, seed, rows, out] = args.as_slice() else {
        return Err("usage: export_rows SHARDS N_CTX SEED ROWS OUT".into());
    };
    let (n_ctx, seed, rows): (usize, u64, usize) = (n_ctx.parse()?, seed.parse()?, rows.parse()?);
    let shards = ShardSet::open(shards)?;
    let order = shards.row_order(n_ctx, seed)?;
    let mut train = vec![0; rows * (n_ctx + 1)];
    shards.train_rows(&order, 0, &mut train)?;
    let mut held_out = vec![0; shards.n_tokens(Split::HeldOut) as usize];
    shards.copy_tokens(Split::HeldOut, 0, &mut held_out)?;
    std::fs::create_dir_all(out)?;
    write(&Path::new(out).join("train.u16"), &train)?;
    write(&Path::new(out).join("held_out.u16"), &held_out)
}

fn write(path: &Path, ids: &[u32]) -> Result<(), Box<dyn Error>> {
    let mut bytes = Vec::with_capacity(2 * ids.len());
    for id in ids {
        bytes.extend(u16::try_from(*id)?.to_le_bytes());
    }
    Ok(std::fs::write(path, bytes)?)
}
