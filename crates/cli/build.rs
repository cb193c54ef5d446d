//! Tells the program which commit it was built from, if git knows.

use std::process::Command;

fn main() {
    for path in ["../../.git/HEAD", "../../.git/refs/heads", "build.rs"] {
        // A path that does not exist would run this script, and with it the compiler, every time.
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned());
    println!("cargo::rustc-env=VERVE_COMMIT={commit}");
}
