//! Ctrl-C and SIGTERM: the first asks the work to stop in good order, the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};

/// Exit code after a second interrupt: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// What is to be told, and what to say.
struct Watch {
    flag: Arc<AtomicBool>,
    message: &'static str,
}

/// Watches for interrupts from now on; the flag becomes true at the first. A later call takes the place of this one.
pub fn watch(message: &'static str) -> Result<Arc<AtomicBool>> {
    static WATCH: OnceLock<Arc<Mutex<Watch>>> = OnceLock::new();
    let flag = Arc::new(AtomicBool::new(false));
    let new = Watch { flag: Arc::clone(&flag), message };
    if let Some(watch) = WATCH.get() {
        *watch.lock().unwrap_or_else(PoisonError::into_inner) = new;
        return Ok(flag);
    }
    let watch = Arc::new(Mutex::new(new));
    let seen = Arc::clone(&watch);
    ctrlc::set_handler(move || {
        let watch = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.flag.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("\n{} (again to stop at once)", watch.message);
    })
    .context("cannot watch for Ctrl-C")?;
    drop(WATCH.set(watch));
    Ok(flag)
}
