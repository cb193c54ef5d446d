//! Downloads from a hub that works, fails, stalls and lies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Mock, Reply, Request};
use verve_hub::{Event, Hub, HubError, Plan, RepoId, Settings, Target, resolve};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &[u8] = b"{\"model_type\": \"llama\"}\n";

/// Bytes of a large file.
fn weights() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn git(bytes: &[u8]) -> String {
    let mut all = format!("blob {}\0", bytes.len()).into_bytes();
    all.extend_from_slice(bytes);
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &all);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn listing(weights: &[u8]) -> Reply {
    let text = format!(
        r#"{{"id": "some/model", "sha": "{COMMIT}", "siblings": [
            {{"rfilename": ".gitattributes", "size": 3, "blobId": "{git_c}"}},
            {{"rfilename": "config.json", "size": {c}, "blobId": "{git_c}"}},
            {{"rfilename": "model.safetensors", "size": {w}, "blobId": "{git_c}", "lfs": {{"sha256": "{sha}", "size": {w}, "pointerSize": 133}}}},
            {{"rfilename": "pytorch_model.bin", "size": 9, "blobId": "{git_c}"}}
        ]}}"#,
        git_c = git(CONFIG),
        c = CONFIG.len(),
        w = weights.len(),
        sha = sha256(weights),
    );
    Reply::ok(text)
}

fn is_listing(request: &Request) -> bool {
    request.path.starts_with("/api/models/some/model/revision/main")
}

/// A hub that works, but for what `weights_reply` makes of requests for the weights.
fn hub(weights_reply: impl Fn(&Request, usize, &[u8]) -> Reply + Send + Sync + 'static) -> Mock {
    let bytes = weights();
    Mock::start(move |request, before| {
        if is_listing(request) {
            listing(&bytes)
        } else if request.path == format!("/some/model/resolve/{COMMIT}/config.json") {
            Reply::file(request, CONFIG)
        } else if request.path == format!("/some/model/resolve/{COMMIT}/model.safetensors") {
            weights_reply(request, before, &bytes)
        } else {
            Reply::status(404)
        }
    })
}

fn repo() -> RepoId {
    "some/model".parse().unwrap()
}

fn pull(settings: &Settings) -> Result<(Plan, PathBuf), HubError> {
    pull_to(settings, &Target::Cache, &mut |_| {})
}

fn pull_to(
    settings: &Settings,
    target: &Target,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<(Plan, PathBuf), HubError> {
    let cancel = AtomicBool::new(false);
    let hub = Hub::new(settings, &cancel)?;
    let plan = hub.plan(&repo(), &[], target, on_event)?;
    let folder = hub.download(&plan, target, on_event)?;
    Ok((plan, folder))
}

fn blob(cache: &Path, name: &str) -> PathBuf {
    cache.join("models--some--model/blobs").join(name)
}

fn check_snapshot(folder: &Path) {
    assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), CONFIG);
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(!folder.join("pytorch_model.bin").exists() && !folder.join(".gitattributes").exists());
}

#[test]
fn a_model_lands_where_other_programs_look() {
    let cache = tempfile::tempdir().unwrap();
    let mock = hub(|request, _, bytes| Reply::file(request, bytes));
    let settings = mock.settings(cache.path());
    let mut arrived = 0;
    let (plan, folder) = pull_to(&settings, &Target::Cache, &mut |event| {
        if let Event::Bytes(n) = event {
            arrived += n;
        }
    })
    .unwrap();
    let size = (CONFIG.len() + weights().len()) as u64;
    assert_eq!((plan.bytes, plan.have, arrived), (size, 0, size));
    assert_eq!(folder, cache.path().join("models--some--model/snapshots").join(COMMIT));
    check_snapshot(&folder);
    let link = std::fs::read_link(folder.join("config.json")).unwrap();
    assert_eq!(link, PathBuf::from(format!("../../blobs/{}", git(CONFIG))));
    assert!(blob(cache.path(), &sha256(&weights())).is_file());
    assert_eq!(std::fs::read_to_string(cache.path().join("models--some--model/refs/main")).unwrap(), COMMIT);
    for request in mock.seen() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_secret"));
    }

    // Once more: only the listing is asked for.
    let (plan, _) = pull(&settings).unwrap();
    assert_eq!((plan.have, mock.count("/resolve/"), mock.count("/api/")), (size, 2, 2));
    // And without any network, by three names.
    let offline = Settings { offline: true, ..settings };
    for name in ["some/model", "model", "some/model@main", &format!("model@{COMMIT}")] {
        assert_eq!(resolve(name, &offline).unwrap(), folder, "{name}");
    }
    assert!(pull(&offline).unwrap_err().to_string().contains("HF_HUB_OFFLINE"));
}

#[test]
fn into_a_folder_of_plain_files() {
    let cache = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let mock = hub(|request, _, bytes| Reply::file(request, bytes));
    let settings = mock.settings(cache.path());
    let target = Target::Folder(out.path().join("model"));
    let (_, folder) = pull_to(&settings, &target, &mut |_| {}).unwrap();
    check_snapshot(&folder);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing but the files");
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "the cache is not used");
    // A file that was changed is downloaded anew, one that was not is left alone.
    std::fs::write(folder.join("config.json"), vec![b' '; CONFIG.len()]).unwrap();
    let (plan, _) = pull_to(&settings, &target, &mut |_| {}).unwrap();
    assert_eq!(plan.have, weights().len() as u64);
    check_snapshot(&folder);
    assert_eq!(mock.count("model.safetensors"), 1);
    // What the cache has is copied from there.
    pull(&settings).unwrap();
    let asked = mock.count("/resolve/");
    let again = Target::Folder(out.path().join("again"));
    check_snapshot(&pull_to(&settings, &again, &mut |_| {}).unwrap().1);
    assert_eq!(mock.count("/resolve/"), asked);
}

#[test]
fn a_cut_connection_goes_on_where_it_ended() {
    let cache = tempfile::tempdir().unwrap();
    let mock =
        hub(|request, before, bytes| Reply { cut: (before < 3).then_some(70_000), ..Reply::file(request, bytes) });
    let (_, folder) = pull(&mock.settings(cache.path())).unwrap();
    check_snapshot(&folder);
    let seen = mock.seen();
    let ranges: Vec<_> = seen.iter().filter(|r| r.path.contains("safetensors")).map(|r| r.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=70000-"), Some("bytes=140000-"), Some("bytes=210000-")]);
}

#[test]
fn a_later_run_goes_on_too() {
    let cache = tempfile::tempdir().unwrap();
    let mock = hub(|request, before, bytes| Reply {
        cut: if before == 0 { Some(50_000) } else { (before < 5).then_some(0) },
        ..Reply::file(request, bytes)
    });
    let settings = mock.settings(cache.path());
    let error = pull(&settings).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors") && error.contains("50000 of 300000") && error.contains("4 attempt"),
        "{error}"
    );
    let partial = blob(cache.path(), &format!("{}.incomplete", sha256(&weights())));
    assert_eq!(std::fs::metadata(&partial).unwrap().len(), 50_000);
    let mut had = Vec::new();
    let (_, folder) = pull_to(&settings, &Target::Cache, &mut |event| {
        if let Event::File { have, .. } = event {
            had.push(have);
        }
    })
    .unwrap();
    assert_eq!(had, [CONFIG.len() as u64, 50_000]);
    check_snapshot(&folder);
    assert!(!partial.exists());
}

#[test]
fn a_hub_without_ranges_sends_all_again() {
    let cache = tempfile::tempdir().unwrap();
    let mock = hub(|_, before, bytes| Reply { cut: (before == 0).then_some(1_000), ..Reply::ok(bytes) });
    let mut discarded = 0;
    let (_, folder) = pull_to(&mock.settings(cache.path()), &Target::Cache, &mut |event| {
        if let Event::Discarded(n) = event {
            discarded += n;
        }
    })
    .unwrap();
    check_snapshot(&folder);
    assert_eq!(discarded, 1_000);
}

#[test]
fn wrong_ranges_lengths_and_checksums() {
    let cache = tempfile::tempdir().unwrap();
    let says = |mock: Mock, parts: &[&str]| {
        let error = pull(&mock.settings(cache.path())).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        let blobs: Vec<_> =
            std::fs::read_dir(blob(cache.path(), "")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(blobs, [std::ffi::OsString::from(git(CONFIG))], "nothing wrong is kept");
        assert!(resolve("model", &mock.settings(cache.path())).is_err(), "no snapshot is complete");
    };
    says(hub(|_, _, bytes| Reply::ok([bytes, b"x"].concat())), &["model.safetensors", "300001", "300000"]);
    says(
        hub(|_, _, bytes| {
            let mut wrong = bytes.to_vec();
            wrong[123_456] ^= 1;
            Reply::ok(wrong)
        }),
        &["model.safetensors", "checksum", &sha256(&weights())],
    );
    // Shorter than promised and calling it whole: a cut that never ends.
    let error = pull(&hub(|_, _, bytes| Reply::ok(&bytes[..10])).settings(cache.path())).unwrap_err().to_string();
    assert!(error.contains("10 of 300000") || error.contains("range"), "{error}");
    let mock = hub(|request, _, bytes| match request.header("range") {
        None => Reply { cut: Some(1_000), ..Reply::ok(bytes) },
        Some(_) => Reply { status: 206, ..Reply::ok(&bytes[5..]) }.header("content-range", "bytes 5-299999/300000"),
    });
    let error = pull(&mock.settings(tempfile::tempdir().unwrap().path())).unwrap_err().to_string();
    assert!(error.contains("range") || error.contains("bytes from 1000"), "{error}");
}

#[test]
fn refusals() {
    let refused = |reply: Reply| {
        let cache = tempfile::tempdir().unwrap();
        let mock = Mock::start(move |_, _| reply.clone());
        let error = pull(&mock.settings(cache.path())).unwrap_err();
        assert_eq!(mock.seen().len(), 1, "{error}: asked again");
        error.to_string()
    };
    let says = |reply: Reply, parts: &[&str]| {
        let error = refused(reply);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(!error.contains("hf_secret"), "{error}");
    };
    says(Reply::status(401), &["401", "some/model", "HF_TOKEN"]);
    let gated = Reply::status(403)
        .header("x-error-code", "GatedRepo")
        .header("x-error-message", "Access to model some/model is restricted.");
    says(gated, &["403", "restricted", "/some/model", "HF_TOKEN"]);
    says(Reply::status(401).header("x-error-code", "GatedRepo"), &["403", "/some/model"]);
    says(Reply::status(404), &["some/model", "does not exist"]);
    says(Reply { body: b"{\"error\": \"Bad\\n request\"}".to_vec(), ..Reply::status(400) }, &["400", "Bad request"]);
}

#[test]
fn overload_is_waited_out() {
    let bytes = weights();
    let mock = Mock::start(move |request, before| match (is_listing(request), before) {
        (true, 0) => Reply::status(429).header("retry-after", "1"),
        (true, 1) => Reply::status(500),
        (true, 2) => Reply::status(503),
        (true, _) => listing(&bytes),
        (false, _) if request.path.contains("config") => Reply::file(request, CONFIG),
        (false, 0) => Reply::status(502),
        (false, _) => Reply::file(request, &bytes),
    });
    let cache = tempfile::tempdir().unwrap();
    let mut waits = Vec::new();
    let started = Instant::now();
    let (_, folder) = pull_to(&mock.settings(cache.path()), &Target::Cache, &mut |event| {
        if let Event::Retry { wait, error } = event {
            waits.push((wait, error.to_string()));
        }
    })
    .unwrap();
    check_snapshot(&folder);
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After is kept");
    let times: Vec<Duration> = waits.iter().map(|(wait, _)| *wait).collect();
    assert_eq!(times, [1_000, 10, 20, 5].map(Duration::from_millis));
    assert!(waits[0].1.contains("429"));

    let mock = Mock::start(|_, _| Reply { body: b"<html>busy</html>".to_vec(), ..Reply::status(500) });
    let error = pull(&mock.settings(cache.path())).unwrap_err().to_string();
    assert!(error.contains("500") && error.contains("4 attempt(s)") && error.contains("busy"), "{error}");
    assert_eq!(mock.seen().len(), 4);
}

#[test]
fn a_stall_is_cut_off_and_resumed() {
    let cache = tempfile::tempdir().unwrap();
    let mock =
        hub(|request, before, bytes| Reply { stall: (before == 0).then_some(9_000), ..Reply::file(request, bytes) });
    let started = Instant::now();
    let mut why = String::new();
    let (_, folder) = pull_to(&mock.settings(cache.path()), &Target::Cache, &mut |event| {
        if let Event::Retry { error, .. } = event {
            why = error.to_string();
        }
    })
    .unwrap();
    assert!(started.elapsed() < Duration::from_millis(2_900), "the stall was waited out");
    assert!(why.contains("nothing arrived"), "{why}");
    check_snapshot(&folder);

    // No answer at all.
    let mock = Mock::start(|_, _| {
        std::thread::sleep(Duration::from_secs(3));
        Reply::status(200)
    });
    let error = pull(&mock.settings(cache.path())).unwrap_err().to_string();
    assert!(error.contains("nothing arrived within the time limit"), "{error}");
}

#[test]
fn no_hub_at_all() {
    let cache = tempfile::tempdir().unwrap();
    let mock = Mock::start(|_, _| Reply::status(200));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = Settings { endpoint: format!("http://127.0.0.1:{port}"), ..mock.settings(cache.path()) };
    let error = pull(&settings).unwrap_err().to_string();
    assert!(error.contains("some/model") && error.contains("4 attempt(s)"), "{error}");
}

#[test]
fn the_token_does_not_follow_redirects_to_other_hosts() {
    let bytes = weights();
    let other = Mock::start(move |request, _| Reply::file(request, &bytes));
    let url = format!("{}/storage/x?signature=1", other.url);
    let mock = hub(move |_, _, bytes| {
        Reply::status(302)
            .header("location", &url)
            .header("x-linked-etag", format!("\"{}\"", sha256(bytes)))
            .header("x-linked-size", bytes.len())
    });
    let cache = tempfile::tempdir().unwrap();
    check_snapshot(&pull(&mock.settings(cache.path())).unwrap().1);
    let there = other.seen();
    assert_eq!(there.len(), 1);
    assert_eq!((there[0].path.as_str(), there[0].header("authorization")), ("/storage/x?signature=1", None));
    assert!(mock.seen().iter().all(|request| request.header("authorization").is_some()));

    let mock =
        hub(|_, _, _| Reply::status(302).header("location", format!("/some/model/resolve/{COMMIT}/model.safetensors")));
    let error = pull(&mock.settings(tempfile::tempdir().unwrap().path())).unwrap_err().to_string();
    assert!(error.contains("redirects"), "{error}");
}

#[test]
fn hostile_listings() {
    for name in ["../evil", "/etc/evil", "a/../../evil", "..\\\\evil", "C:/evil", "a//b"] {
        let mock = Mock::start(move |_, _| {
            Reply::ok(format!(
                r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "config.json"}}, {{"rfilename": "{name}"}}]}}"#
            ))
        });
        let cache = tempfile::tempdir().unwrap();
        let error = pull(&mock.settings(cache.path())).unwrap_err().to_string();
        assert!(error.contains("outside"), "{error}");
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
    }
    for (text, part) in [
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "cannot be used"),
        ("{\"siblings\": []}".to_owned(), "no commit"),
        ("{\"sha\": \"../../x\", \"siblings\": []}".to_owned(), "no commit"),
        (
            format!(
                "{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"x.gguf\", \"lfs\": {{\"sha256\": \"../x\"}}}}]}}"
            ),
            "no checksum",
        ),
        (
            format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{{\"rfilename\": \"a\"}}, {{\"rfilename\": \"a\"}}]}}"),
            "twice",
        ),
        (format!("{{\"sha\": \"{COMMIT}\"}}"), "neither safetensors nor GGUF"),
    ] {
        let mock = Mock::start(move |_, _| Reply::ok(text.clone()));
        let error = pull(&mock.settings(tempfile::tempdir().unwrap().path())).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_listing_without_sizes_is_completed() {
    let bytes = weights();
    let mock = Mock::start(move |request, _| {
        if is_listing(request) {
            Reply::ok(format!(
                r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "config.json"}}, {{"rfilename": "model.safetensors"}}]}}"#
            ))
        } else if request.path.contains("config") {
            Reply::file(request, CONFIG).header("etag", format!("\"{}\"", git(CONFIG)))
        } else {
            Reply::file(request, &bytes).header("x-linked-etag", format!("\"{}\"", sha256(&bytes)))
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let (plan, folder) = pull(&mock.settings(cache.path())).unwrap();
    assert_eq!(plan.bytes, (CONFIG.len() + weights().len()) as u64);
    check_snapshot(&folder);
    assert!(blob(cache.path(), &sha256(&weights())).is_file());
}

#[test]
fn an_interrupt_keeps_what_is_there() {
    let cache = tempfile::tempdir().unwrap();
    let mock = hub(|request, _, bytes| Reply { stall: Some(20_000), ..Reply::file(request, bytes) });
    let settings = mock.settings(cache.path());
    let cancel = Arc::new(AtomicBool::new(false));
    let hub = Hub::new(&settings, &cancel).unwrap();
    let plan = hub.plan(&repo(), &[], &Target::Cache, &mut |_| {}).unwrap();
    let error = hub
        .download(&plan, &Target::Cache, &mut |event| {
            if let Event::Bytes(n) = event
                && n > 1_000
            {
                cancel.store(true, Ordering::SeqCst);
            }
        })
        .unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    let partial = blob(cache.path(), &format!("{}.incomplete", sha256(&weights())));
    assert!(std::fs::metadata(partial).unwrap().len() > 1_000);
}

#[test]
fn two_downloads_of_one_file_do_not_mix() {
    let cache = tempfile::tempdir().unwrap();
    let mock = hub(|request, _, bytes| Reply::file(request, bytes));
    let settings = mock.settings(cache.path());
    let lock = cache.path().join(".locks/models--some--model").join(format!("{}.lock", sha256(&weights())));
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let error = pull(&settings).unwrap_err().to_string();
    assert!(error.contains("another process") && error.contains(".lock"), "{error}");
    drop(held);
    pull(&settings).unwrap();
}
