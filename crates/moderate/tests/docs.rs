//! The settings that the documentation shows are settings that work.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde::Deserialize;
use verve_moderate::{Chain, ModerationConfig, Stage};

#[derive(Deserialize)]
struct Settings {
    serve: Serve,
}

#[derive(Deserialize)]
struct Serve {
    moderation: ModerationConfig,
}

#[test]
fn the_example_of_the_documentation_works() {
    let page = include_str!("../../../docs/moderation.md");
    let toml = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut settings = toml::from_str::<Settings>(toml).unwrap().serve;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("project-names.txt"), "# ours\nBlue Harbour\n").unwrap();
    // The token is in the environment of a server and not of a test.
    let service = settings.moderation.filters.iter_mut().find_map(|f| f.service.as_mut()).unwrap();
    assert!(service.bearer_env.take().is_some());
    let chain = Chain::from_config(&settings.moderation, folder.path()).unwrap();
    assert!(chain.asks_services(Stage::Input) && !chain.asks_services(Stage::Output));
    let verdict = chain.check(Stage::Output, "Ticket-12345 is about blue harbour");
    assert_eq!(verdict.refused.unwrap().reason_code, "internal_name");
    let verdict = chain.check(Stage::Output, "Ticket-12345 is about the harbour");
    assert!(verdict.refused.is_none());
    assert_eq!(verdict.records[0].reason_code, "ticket");
}
