//! The README's commands, so that continuous integration runs what the README says and nothing else.

use std::path::Path;

use anyhow::{Context, Result};

/// Language tag of code blocks whose commands are run.
const RUNNABLE: &str = "```sh";

/// The commands in the README's runnable code blocks, in order; comments and empty lines left out. A line that ends in a
/// backslash goes on in the next.
pub fn commands(readme: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut pending = String::new();
    for line in readme.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside && line.trim() == RUNNABLE;
            continue;
        }
        if !inside {
            continue;
        }
        let text = line.split(" # ").next().unwrap_or(line).trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        match text.strip_suffix('\\') {
            Some(part) => {
                pending.push_str(part);
            }
            None => {
                pending.push_str(text);
                found.push(std::mem::take(&mut pending));
            }
        }
    }
    found
}

/// Prints the README's commands, one a line.
pub fn print_commands(root: &Path) -> Result<()> {
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for command in commands(&readme) {
        println!("{command}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::commands;

    #[test]
    fn takes_commands_of_runnable_blocks_only() {
        let text = "# x\n```sh\n# note\ncargo test  # all\nverve a \\\n  --b\n```\n```text\nnot this\n```\n```\nnor this\n```\n";
        assert_eq!(commands(text), ["cargo test", "verve a --b"]);
    }
}
