//! `verve keys`: making, listing, revoking.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::Path;

use common::{fails, succeeds, verve};
use serde_json::Value;

fn keys(file: &Path, args: &[&str]) -> assert_cmd::Command {
    let mut command = verve();
    command.arg("keys").args(args).arg("--keys").arg(file);
    command
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_key_is_made_shown_once_listed_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.redb");
    let out = succeeds(&mut keys(&file, &["add", "web shop"]));
    let secret = out.trim();
    assert!(
        secret.starts_with("vk-") && secret.len() == 46,
        "standard output holds the secret and nothing else: {out}"
    );
    let all = ["--scopes", "embed,admin", "--models", "small,large", "--expires", "30d", "--json"];
    let limits = ["--requests-per-minute", "60", "--tokens-per-minute", "100k", "--requests-per-day", "1k"];
    let mut command = keys(&file, &["add", "office"]);
    let made = json(&succeeds(command.args(all).args(limits).args(["--tokens-per-day", "2M"])));
    assert_eq!(made[0]["scopes"], serde_json::json!(["embed", "admin"]));
    assert_eq!(made[0]["models"], serde_json::json!(["small", "large"]));
    let life = made[0]["expires_at"].as_u64().unwrap() - made[0]["created"].as_u64().unwrap();
    assert_eq!(life, 30 * 86_400);
    assert_eq!(
        made[0]["limits"],
        serde_json::json!({"requests_per_minute": 60, "tokens_per_minute": 100_000, "requests_per_day": 1000,
            "tokens_per_day": 2_000_000})
    );
    // What a server would do.
    let store = verve_access::KeyStore::open(&file).unwrap();
    let now = verve_access::UnixMillis::now();
    let shop = store.find(secret, now).unwrap();
    assert_eq!(store.find(made[0]["secret"].as_str().unwrap(), now).unwrap().name, "office");
    store.record(&shop.id, 1, 20, 3, now);
    store.flush().unwrap();

    let table = succeeds(&mut keys(&file, &["list"]));
    for part in
        ["web shop", "office", "in force", "until ", "embed,admin", "small,large", "100000 tokens/min", "23 / 23"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains("vk-"));
    let listed = json(&succeeds(&mut keys(&file, &["list", "--json"])));
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["usage_total"]["prompt_tokens"], 20);
    assert_eq!(listed[0]["usage_today"]["completion_tokens"], 3);
    assert!(listed.iter().all(|key| key.get("secret").is_none() && key.get("secret_hash").is_none()));

    succeeds(&mut keys(&file, &["revoke", "web shop"]));
    let office = made[0]["id"].as_str().unwrap();
    let revoked = json(&succeeds(&mut keys(&file, &["revoke", office, "--json"])));
    assert!(revoked[0]["revoked_at"].is_u64());
    store.refresh().unwrap();
    assert_eq!(store.find(secret, now), Err(verve_access::Refused::Revoked));
    assert_eq!(succeeds(&mut keys(&file, &["list"])).matches("revoked ").count(), 2);
}

#[test]
fn what_is_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.redb");
    let missing = fails(&mut keys(&file, &["list"]), 1);
    assert!(missing.contains("keys.redb") && missing.contains("verve keys add"), "{missing}");
    succeeds(&mut keys(&file, &["add", "shop"]));
    let cases: [(&[&str], &str); 7] = [
        (&["add", "shop"], "already"),
        (&["add", "b", "--scopes", "embed,chat"], "`chat`"),
        (&["add", "b", "--expires", "soon"], "2027-01-31"),
        (&["add", "b", "--expires", "2020-01-01"], "past"),
        (&["add", " "], "empty"),
        (&["revoke", "nobody"], "nobody"),
        (&["revoke", "key_0000000000"], "key_0000000000"),
    ];
    for (args, part) in cases {
        let error = fails(&mut keys(&file, args), 1);
        assert!(error.contains(part), "{args:?}: {error}");
    }
    fails(&mut keys(&file, &["add", "b", "--tokens-per-day", "0"]), 2);
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not keys").unwrap();
    for command in ["list", "add"] {
        let args: &[&str] = if command == "add" { &["add", "b"] } else { &["list"] };
        let error = fails(&mut keys(&text, args), 1);
        assert!(error.contains("notes.txt") && error.contains("not a file of keys"), "{error}");
    }
    assert_eq!(std::fs::read(&text).unwrap(), b"not keys");
}

#[test]
fn the_file_is_looked_for_where_the_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let (by_variable, data) = (folder.path().join("named.redb"), folder.path().join("data"));
    let add = |variables: &[(&str, &Path)], name: &str| {
        let mut command = verve();
        command.env_remove("VERVE_KEYS").env_remove("XDG_DATA_HOME").env("HOME", folder.path());
        command.envs(variables.iter().copied()).args(["keys", "add", name]);
        succeeds(&mut command);
    };
    add(&[("VERVE_KEYS", &by_variable), ("XDG_DATA_HOME", &data)], "a");
    add(&[("XDG_DATA_HOME", &data)], "b");
    add(&[], "c");
    for (file, name) in [
        (by_variable, "a"),
        (data.join("verve/keys.redb"), "b"),
        (folder.path().join(".local/share/verve/keys.redb"), "c"),
    ] {
        assert_eq!(json(&succeeds(&mut keys(&file, &["list", "--json"])))[0]["name"], name);
    }
}
