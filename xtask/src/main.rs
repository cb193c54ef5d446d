//! Project chores.
//!
//! ```text
//! cargo xtask tidy     checks the conventions that no compiler checks
//! cargo xtask readme   prints the commands of the README, one a line, for .ci/run
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let outcome = match task.as_str() {
        "tidy" => xtask::tidy::run(&xtask::root()),
        "readme" => xtask::readme::print_commands(&xtask::root()),
        other => {
            eprintln!("unknown task {other:?}; there are: tidy, readme");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
