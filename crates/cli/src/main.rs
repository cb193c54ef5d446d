//! The `verve` command.

fn main() {}
