//! Arguments of `verve keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::units;

#[derive(Debug, Args)]
#[command(
    after_help = "A server with the same file sees a new or revoked key within a second. Secrets are not stored, only hashes \
    of them: a lost secret cannot be shown again.\n\nExample:  verve keys add \"web shop\" --expires 90d --tokens-per-day 1M"
)]
pub struct KeysArgs {
    /// File of keys [default: $VERVE_KEYS, else $XDG_DATA_HOME/verve/keys.redb, else ~/.local/share/verve/keys.redb]
    #[arg(long, global = true, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and show its secret, once
    Add(Box<KeysAddArgs>),
    /// List keys with what they may do and have used
    List(KeysListArgs),
    /// Take a key back
    Revoke(KeysRevokeArgs),
}

#[derive(Debug, Args)]
pub struct KeysAddArgs {
    /// What to call the key
    pub name: String,
    /// What it may do: generate, embed, score, moderate, admin [default: all but admin]
    #[arg(long, value_name = "SCOPE,...", value_delimiter = ',')]
    pub scopes: Vec<String>,
    /// Models it may use, by the names in requests [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub models: Vec<String>,
    /// When it ends: after a time such as 12h, 30d or 8w, at the end of a day such as 2027-01-31 (UTC), or at a moment such
    /// as 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// Requests in any 60 seconds [default: no limit]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers in any 60 seconds, such as 100k [default: no limit]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub tokens_per_minute: Option<u64>,
    /// Requests in a day of UTC [default: no limit]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub requests_per_day: Option<u64>,
    /// Tokens of prompts and answers in a day of UTC, such as 2M [default: no limit]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub tokens_per_day: Option<u64>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct KeysListArgs {
    /// Print one line of JSON a key
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct KeysRevokeArgs {
    /// Name of a key in force, or its id
    pub key: String,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
