//! Keys and usage in a file that several processes share.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use verve_access::{AccessError, KeyStore, KeyUsage, Limits, NewKey, Refreshed, Refused, Scope, UnixMillis, Usage};

const DAY: u64 = 86_400_000;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data").join("keys.redb");
    (folder, path)
}

fn used(requests: u64, prompt_tokens: u64, completion_tokens: u64) -> Usage {
    Usage { requests, prompt_tokens, completion_tokens }
}

#[test]
fn a_key_is_found_by_its_secret_and_by_no_other() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let now = UnixMillis::now();
    let (shop, shop_secret) = store.add(NewKey::named("shop"), now).unwrap();
    let (desk, desk_secret) = store.add(NewKey::named("desk"), now).unwrap();
    for store in [&store, &KeyStore::open(&path).unwrap()] {
        assert_eq!(store.find(shop_secret.reveal(), now).unwrap(), shop);
        assert_eq!(store.find(desk_secret.reveal(), now).unwrap(), desk);
        let mut other = shop_secret.reveal().to_string();
        let last = if other.pop() == Some('A') { 'E' } else { 'A' };
        other.push(last);
        for wrong in ["", "vk-", &other, &format!("{} ", shop_secret.reveal()), &shop_secret.reveal()[1..]] {
            assert_eq!(store.find(wrong, now), Err(Refused::Unknown), "{wrong}");
        }
        assert_eq!(store.keys().len(), 2);
    }
    let bytes = fs::read(&path).unwrap();
    let secret = shop_secret.reveal().trim_start_matches("vk-").as_bytes();
    assert!(!bytes.windows(20).any(|w| w == &secret[..20]), "the secret stands in the file");
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    store.add(NewKey::named("shop"), UnixMillis::now()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["keys.redb"], "nothing else is left behind");
}

#[test]
fn scopes_models_limits_and_times_survive() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let now = UnixMillis::now();
    let new = NewKey {
        name: "büro 7".into(),
        scopes: BTreeSet::from([Scope::Embed, Scope::Admin]),
        models: vec!["small".into()],
        expires_at: Some(UnixMillis(now.0 + 1000)),
        limits: Limits { tokens_per_day: Some(7), ..Limits::default() },
    };
    let (key, secret) = store.add(new, now).unwrap();
    let again = KeyStore::open(&path).unwrap();
    let found = again.find(secret.reveal(), now).unwrap();
    assert_eq!(found, key);
    assert!(found.allows(Scope::Embed) && found.allows(Scope::Admin) && !found.allows(Scope::Generate));
    assert!(found.allows_model("small") && !found.allows_model("large"));
    assert_eq!(found.limits.tokens_per_day, Some(7));
    let end = UnixMillis(now.0 + 1000);
    assert!(again.find(secret.reveal(), UnixMillis(end.0 - 1)).is_ok());
    assert_eq!(again.find(secret.reveal(), end), Err(Refused::Expired));
    assert_eq!(again.check(&key.id, end), Err(Refused::Expired));
}

#[test]
fn what_cannot_be_a_key_is_refused() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let now = UnixMillis::now();
    for name in ["", " ", " a", "a\nb", "key_0123456789", "vk-abc", &"x".repeat(65)] {
        assert!(matches!(store.add(NewKey::named(name), now), Err(AccessError::Name { .. })), "{name:?}");
    }
    let zero = Limits { requests_per_day: Some(0), ..Limits::default() };
    let error = store.add(NewKey { limits: zero, ..NewKey::named("a") }, now).unwrap_err();
    assert!(error.to_string().contains("requests per day"), "{error}");
    let none = NewKey { scopes: BTreeSet::new(), ..NewKey::named("a") };
    assert!(matches!(store.add(none, now), Err(AccessError::NoScope)));
    let past = NewKey { expires_at: Some(now), ..NewKey::named("a") };
    assert!(matches!(store.add(past, now), Err(AccessError::PastExpiry)));
    assert!(store.keys().is_empty());
}

#[test]
fn names_are_free_again_after_revocation() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let now = UnixMillis::now();
    let (first, first_secret) = store.add(NewKey::named("shop"), now).unwrap();
    assert!(matches!(store.add(NewKey::named("shop"), now), Err(AccessError::NameTaken { id, .. }) if id == first.id));
    assert_eq!(store.revoke("shop", now).unwrap().id, first.id);
    let (second, second_secret) = store.add(NewKey::named("shop"), now).unwrap();
    assert_eq!(store.find(first_secret.reveal(), now), Err(Refused::Revoked));
    assert_eq!(store.check(&first.id, now), Err(Refused::Revoked));
    assert_eq!(store.find(second_secret.reveal(), now).unwrap().id, second.id);
    // By name: the one in force. By id of one that is revoked: nothing changes, its time neither.
    let later = UnixMillis(now.0 + 5);
    assert_eq!(store.revoke(&first.id, later).unwrap().revoked_at, Some(now));
    assert_eq!(store.revoke("shop", later).unwrap().id, second.id);
    let error = store.revoke("shop", later).unwrap_err();
    assert!(matches!(&error, AccessError::NoSuchKey { revoked: true, .. }), "{error}");
    assert!(matches!(store.revoke("none", later), Err(AccessError::NoSuchKey { revoked: false, .. })));
}

#[test]
fn what_one_process_changes_another_sees() {
    let (_folder, path) = place();
    let command = KeyStore::open_or_create(&path).unwrap();
    let server = KeyStore::open(&path).unwrap();
    let now = UnixMillis::now();
    let (key, secret) = command.add(NewKey::named("shop"), now).unwrap();
    assert_eq!(server.find(secret.reveal(), now), Err(Refused::Unknown));
    assert_eq!(server.refresh().unwrap(), Refreshed::Keys);
    assert!(server.find(secret.reveal(), now).is_ok());
    assert_eq!(server.refresh().unwrap(), Refreshed::Nothing);
    server.record(&key.id, 1, 2, 3, now);
    assert!(server.flush().unwrap());
    assert_eq!(server.refresh().unwrap(), Refreshed::Nothing, "its own usage is no news");
    assert_eq!(command.refresh().unwrap(), Refreshed::Usage);
    assert_eq!(command.usage(now)[&key.id].total, used(1, 2, 3));
    command.revoke("shop", now).unwrap();
    assert!(server.find(secret.reveal(), now).is_ok());
    assert_eq!(server.refresh().unwrap(), Refreshed::Keys);
    assert_eq!(server.find(secret.reveal(), now), Err(Refused::Revoked));
}

#[test]
fn a_quiet_file_is_not_read_again_and_a_change_still_shows() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    let age = |path: &Path| fs::File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
    age(&path);
    assert_eq!(store.refresh().unwrap(), Refreshed::Nothing);
    // Nobody else could read it now, and nobody needs to.
    let blocker = redb::Database::open(&path).unwrap();
    age(&path);
    assert_eq!(store.refresh().unwrap(), Refreshed::Nothing);
    drop(blocker);
    let now = UnixMillis::now();
    KeyStore::open(&path).unwrap().add(NewKey::named("new"), now).unwrap();
    assert_eq!(store.refresh().unwrap(), Refreshed::Keys);
}

#[test]
fn two_changes_in_one_tick_of_the_file_system_both_show() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let (tick, now) = (std::time::SystemTime::now(), UnixMillis::now());
    let stamp = || fs::File::options().append(true).open(&path).unwrap().set_modified(tick).unwrap();
    let other = KeyStore::open(&path).unwrap();
    for names in [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]] {
        // Two, after which the file tends to be as long as it was.
        for name in names {
            other.add(NewKey::named(name), now).unwrap();
        }
        stamp();
        assert_eq!(store.refresh().unwrap(), Refreshed::Keys, "{names:?}");
    }
}

#[test]
fn usage_is_kept_by_key_and_day() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let now = UnixMillis::now();
    let (a, _) = store.add(NewKey::named("a"), now).unwrap();
    let (b, _) = store.add(NewKey::named("b"), now).unwrap();
    let yesterday = UnixMillis(now.0 - DAY);
    assert!(!store.flush().unwrap() && !store.has_pending());
    store.record(&a.id, 1, 10, 100, yesterday);
    store.record(&a.id, 1, 1, 2, now);
    store.record(&b.id, 3, 0, 7, now);
    store.record("key_gone", 9, 9, 9, now);
    let expected = |store: &KeyStore| {
        let usage = store.usage(now);
        assert_eq!(usage.len(), 2);
        let both = KeyUsage { today: used(1, 1, 2), total: used(2, 11, 102), last_used: Some(now) };
        assert_eq!(usage[&a.id], both);
        assert_eq!(usage[&b.id], KeyUsage { today: used(3, 0, 7), total: used(3, 0, 7), last_used: Some(now) });
    };
    expected(&store);
    assert!(store.has_pending());
    assert!(store.flush().unwrap());
    assert!(!store.has_pending());
    expected(&store);
    store.refresh().unwrap();
    expected(&store);
    let again = KeyStore::open(&path).unwrap();
    expected(&again);
    let tomorrow = UnixMillis(now.0 + DAY);
    assert_eq!(again.usage(tomorrow)[&a.id].today, Usage::default());
    assert_eq!(again.usage(tomorrow)[&a.id].total, used(2, 11, 102));
    // Two processes add to the same counts.
    again.record(&a.id, 1, 1, 1, now);
    again.flush().unwrap();
    store.record(&a.id, 1, 1, 1, now);
    store.flush().unwrap();
    assert_eq!(store.usage(now)[&a.id].total, used(4, 13, 104));
    let huge = u64::MAX;
    store.record(&a.id, huge, huge, huge, now);
    store.flush().unwrap();
    assert_eq!(store.usage(now)[&a.id].total, used(huge, huge, huge), "counts stop at the largest number");
}

#[test]
fn a_file_in_use_is_waited_for_and_usage_kept_meanwhile() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    let now = UnixMillis::now();
    let (key, _) = store.add(NewKey::named("a"), now).unwrap();
    let hasty = KeyStore::open_waiting(&path, Duration::from_millis(30)).unwrap();
    let blocker = redb::Database::open(&path).unwrap();
    hasty.record(&key.id, 1, 2, 3, now);
    let error = hasty.flush().unwrap_err();
    assert!(matches!(error, AccessError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("keys.redb"));
    assert!(hasty.has_pending());
    hasty.record(&key.id, 1, 2, 3, now);
    let waiting = std::thread::spawn(move || {
        store.record(&key.id, 1, 1, 1, now);
        store.flush().unwrap();
        store
    });
    std::thread::sleep(Duration::from_millis(50));
    drop(blocker);
    waiting.join().unwrap();
    hasty.flush().unwrap();
    let total = KeyStore::open(&path).unwrap().usage(now).into_values().next().unwrap().total;
    assert_eq!(total, used(3, 5, 7));
}

#[test]
fn many_writers_lose_nothing() {
    let (_folder, path) = place();
    let now = UnixMillis::now();
    let (key, _) = KeyStore::open_or_create(&path).unwrap().add(NewKey::named("a"), now).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (path, id) = (&path, key.id.as_str());
            scope.spawn(move || {
                let store = KeyStore::open(path).unwrap();
                for i in 0..5 {
                    store.record(id, 1, 2, 3, now);
                    store.flush().unwrap();
                    store.add(NewKey::named(format!("{n} {i}")), now).unwrap();
                    store.refresh().unwrap();
                }
            });
        }
    });
    let store = KeyStore::open(&path).unwrap();
    assert_eq!(store.usage(now)[&key.id].total, used(20, 40, 60));
    assert_eq!(store.keys().len(), 21);
}

#[test]
fn two_processes_that_create_the_file_get_the_same_one() {
    let (_folder, path) = place();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let store = KeyStore::open_or_create(path).unwrap();
                store.add(NewKey::named(format!("{n}")), UnixMillis::now()).unwrap();
            });
        }
    });
    assert_eq!(KeyStore::open(&path).unwrap().keys().len(), 4);
}

/// Opens `bytes` as a file of keys; it must be refused with its name and stay as it is.
fn refused(bytes: &[u8]) -> AccessError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.file");
    fs::write(&path, bytes).unwrap();
    let error = KeyStore::open_or_create(&path).unwrap_err();
    assert!(error.to_string().contains("some.file"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "the file was changed");
    error
}

#[test]
fn a_foreign_file_is_named_and_left_alone() {
    let not_keys = |bytes: &[u8]| {
        let error = refused(bytes);
        assert!(matches!(error, AccessError::NotAKeyFile { .. }), "{error}");
    };
    not_keys(b"");
    not_keys(b"re");
    not_keys(b"[server]\nport = 80\n");
    not_keys(&[0; 100_000]);
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    let database = redb::Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("keys")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    not_keys(&fs::read(&other).unwrap());
    assert!(matches!(KeyStore::open(&folder.path().join("none")), Err(AccessError::Missing { .. })));
    assert!(matches!(KeyStore::open(folder.path()), Err(AccessError::NotAKeyFile { .. } | AccessError::Io { .. })));
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_panic() {
    let (_folder, path) = place();
    let store = KeyStore::open_or_create(&path).unwrap();
    for n in 0..20 {
        store.add(NewKey::named(format!("key number {n}")), UnixMillis::now()).unwrap();
    }
    let good = fs::read(&path).unwrap();
    for length in [5, 64, 300, 4096, good.len() / 2] {
        let error = refused(&good[..length]);
        assert!(matches!(error, AccessError::Damaged { .. }), "{length}: {error}");
    }
    // Bytes changed here and there: an error, or keys that can be read; the process goes on in both cases.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut errors = 0;
    let touched: Vec<usize> = (0..good.len()).filter(|i| good[*i] != 0).collect();
    for n in 0..150 {
        let at = if n < 60 { n * 5 } else { touched[n * 7919 % touched.len()] };
        let mut bad = good.clone();
        bad[at] ^= 1 << (n % 8);
        bad[(at + 1) % good.len()] ^= 0xff;
        fs::write(&copy, &bad).unwrap();
        match KeyStore::open(&copy) {
            Ok(store) => drop(store.add(NewKey::named("one more"), UnixMillis::now())),
            Err(_) => errors += 1,
        }
    }
    std::panic::set_hook(hook);
    assert!(errors > 20, "{errors} of 150 were seen");
}
