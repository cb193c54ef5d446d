//! The `verve` command: arguments, device choice and printing over the libraries that do the work.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod args;
mod commands;
mod device;
mod interrupt;
mod machine;
mod output;
mod progress;
mod units;

/// The commit this program was built from.
pub const COMMIT: &str = env!("VERVE_COMMIT");
/// Version and commit, as they stand in run folders and benchmark lines.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("VERVE_COMMIT"), ")");

fn main() -> ExitCode {
    let args = args::Verve::parse();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verve: {}", output::message(&error));
            ExitCode::FAILURE
        }
    }
}
