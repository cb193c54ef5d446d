//! A process that is killed while it writes usage: keys and what was written stay.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use verve_access::{KeyStore, NewKey, UnixMillis, Usage};

const FILE: &str = "VERVE_ACCESS_TEST_FILE";

/// The child's part: counts for two keys in one flush, says so, again and again. Does nothing in an ordinary run.
#[test]
fn child_flushes() {
    let Ok(path) = std::env::var(FILE) else { return };
    let store = KeyStore::open(Path::new(&path)).unwrap();
    let keys = store.keys();
    loop {
        let now = UnixMillis::now();
        store.record(&keys[0].id, 1, 3, 5, now);
        store.record(&keys[1].id, 2, 6, 10, now);
        store.flush().unwrap();
        eprintln!("flushed");
    }
}

#[test]
fn usage_is_a_whole_number_of_flushes_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.redb");
    let store = KeyStore::open_or_create(&path).unwrap();
    let start = UnixMillis::now();
    let secrets = ["a", "b"].map(|name| store.add(NewKey::named(name), start).unwrap().1);
    let mut certain = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_flushes", "--nocapture", "--test-threads=1"])
            .env(FILE, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let wanted = 2 + round;
        let mut count = 0;
        while count < wanted {
            let line = said.next().unwrap().unwrap();
            count += u64::from(line.contains("flushed"));
        }
        // Somewhere in the next flush, at another place in each round.
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        certain += count + said.map_while(Result::ok).filter(|l| l.contains("flushed")).count() as u64;
        let after = KeyStore::open(&path).unwrap();
        let now = UnixMillis::now();
        let totals: Vec<Usage> = after.keys().iter().map(|k| after.usage(now)[&k.id].total).collect();
        let flushes = totals[0].requests;
        let times = |n: u64| Usage { requests: n, prompt_tokens: 3 * n, completion_tokens: 5 * n };
        assert_eq!(totals, [times(flushes), times(2 * flushes)], "a flush was cut in two");
        assert!(flushes >= certain, "round {round}: {certain} flushes were reported, {flushes} are there");
        // The one that was under way may be there or not.
        assert!(flushes <= certain + 1, "round {round}: {certain} flushes were reported, {flushes} are there");
        certain = flushes;
        for secret in &secrets {
            assert!(after.find(secret.reveal(), now).is_ok());
        }
    }
}
