//! Filters on whole texts, and settings that are wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{chain, filter, try_chain};
use verve_moderate::{Category, Chain, Finding, ModerationConfig, Stage};

fn hits(chain: &Chain, text: &str) -> bool {
    chain.check(Stage::Input, text).refused.is_some()
}

#[test]
fn words_are_whole_and_spellings_do_not_matter() {
    let words = filter("words = ['cat', 'blue moon', 'Straße', '自杀', \"don't panic\"]");
    for text in [
        "cat",
        "A CAT!",
        "(cat)",
        "ｃａｔ",
        "c\u{200b}a\u{301}t",
        "𝐜𝐚𝐭",
        "the blue moon",
        "Blue\n\tMOON",
        "blue-moon",
        "blue blue moon",
        "STRASSE",
        "他想自杀了",
        "Don’t panic",
        "dog cat",
    ] {
        assert!(hits(&words, text), "{text}");
    }
    for text in
        ["", "concatenate", "cats", "bobcat", "blue", "blue moons", "blue red moon", "moon blue", "自己", "cat5"]
    {
        assert!(!hits(&words, text), "{text}");
    }
}

#[test]
fn expressions_see_the_text_as_it_is() {
    let patterns = filter(r#"patterns = ['(?i)project-\d{4}\b', '^secret:']"#);
    assert!(hits(&patterns, "see PROJECT-1234."));
    assert!(hits(&patterns, "secret: x"));
    assert!(!hits(&patterns, "project-12345"));
    assert!(!hits(&patterns, "a secret: x"));
}

#[test]
fn builtin_forms() {
    let of = |name: &str| filter(&format!("builtin = ['{name}']"));
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("card-number", &["pay 4111 1111 1111 1111 now"], &["4111 1111 1111 1112", "tel. 0170 1234567"]),
        ("iban", &["DE89 3704 0044 0532 0130 00"], &["DE89 3704 0044 0532 0130 01"]),
        ("email", &["mail a.b+c@mail.example.org today", "<x@example.com>"], &["a@b", "@user said", "x @ example.com"]),
        (
            "private-key",
            &[
                "-----BEGIN PRIVATE KEY-----",
                "-----BEGIN RSA PRIVATE KEY-----",
                "-----BEGIN PGP PRIVATE KEY BLOCK-----",
            ],
            &["-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----"],
        ),
        (
            "api-key",
            &[
                concat!("key vk-", "0123456789abcdefghijABCDEFGHIJ0123456789-_x"),
                concat!("AK", "IA0123456789ABCDEF"),
                concat!("sk", "-proj-abcdefghij0123456789"),
                concat!("gh", "p_0123456789abcdefghijABCDEFGHIJ012345"),
            ],
            &["vk-short", "a task-force-for-something-quite-long", "SKIA0123456789ABCDEF"],
        ),
    ];
    for (name, found, passed) in cases {
        let chain = of(name);
        for text in found {
            assert!(hits(&chain, text), "{name}: {text}");
        }
        for text in passed {
            assert!(!hits(&chain, text), "{name}: {text}");
        }
    }
    let both = filter("builtin = ['email', 'iban']");
    assert!(hits(&both, "x@example.com") && hits(&both, "DE89370400440532013000") && !hits(&both, "x"));
}

#[test]
fn stages_actions_and_order() {
    let chain = chain(
        "[[filters]]\nname='a'\nstage='input'\nreason_code='in'\nwords=['one']\ncategory='violence'\n\
         [[filters]]\nname='b'\nstage='output'\nreason_code='out'\nwords=['two']\n\
         [[filters]]\nname='c'\nreason_code='note'\naction='record'\nwords=['three']\ncategory='hate/threatening'\n\
         [[filters]]\nname='d'\nreason_code='late'\nwords=['one', 'four']",
    );
    let check = |stage, text: &str| chain.check(stage, text);
    assert_eq!(
        check(Stage::Input, "one").refused,
        Some(Finding {
            filter: "a".into(),
            reason_code: "in".into(),
            category: Some(Category::Violence),
            stage: Stage::Input
        })
    );
    assert_eq!(check(Stage::Output, "one").refused.unwrap().filter, "d");
    assert!(check(Stage::Input, "two").refused.is_none());
    assert_eq!(check(Stage::Output, "two").refused.unwrap().reason_code, "out");
    let noted = check(Stage::Input, "three three");
    assert!(noted.refused.is_none());
    assert_eq!(noted.records.len(), 1);
    assert_eq!(noted.records[0].category, Some(Category::HateThreatening));
    let both = check(Stage::Output, "four three");
    assert_eq!((both.refused.unwrap().filter.as_str(), both.records.len()), ("d", 1));
    assert!(chain.looks_at(Stage::Input) && !chain.asks_services(Stage::Output) && !chain.is_empty());
    assert!(Chain::default().is_empty());
}

#[test]
fn a_finding_never_holds_the_text() {
    let chain = filter("words = ['verysecret']");
    let verdict = chain.check(Stage::Input, "verysecret");
    let finding = verdict.refused.unwrap();
    let shown = format!("{finding} {finding:?} {}", serde_json::to_string(&finding).unwrap());
    assert!(!shown.contains("verysecret"));
    assert!(shown.contains("`f`") && shown.contains("(r)"));
}

#[test]
fn categories_are_those_of_the_chain() {
    let chain = chain(
        "[[filters]]\nname='a'\nstage='input'\nreason_code='x'\nwords=['one']\ncategory='violence'\n\
         [[filters]]\nname='b'\nstage='output'\naction='record'\nreason_code='x'\nwords=['two']\ncategory='self-harm/intent'\n\
         [[filters]]\nname='c'\nreason_code='x'\nwords=['three']",
    );
    let flagged = |text: &str| {
        let moderation = chain.categories(text).unwrap();
        assert_eq!(moderation.categories.map(|c| c.0), Category::ALL);
        for (_, flagged, score) in moderation.categories {
            assert!(score == if flagged { 1.0 } else { 0.0 });
        }
        let names: Vec<_> = moderation.categories.iter().filter(|c| c.1).map(|c| c.0.name()).collect();
        (moderation.flagged, names)
    };
    assert_eq!(flagged("nothing"), (false, vec![]));
    assert_eq!(flagged("one"), (true, vec!["violence"]));
    assert_eq!(flagged("one two"), (true, vec!["self-harm/intent", "violence"]));
    assert_eq!(flagged("three"), (true, vec![]));
}

#[test]
fn lists_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("words.txt"), "\u{feff}# colours\nred\n\n  deep blue  \r\n").unwrap();
    fs::write(folder.path().join("patterns.txt"), "# numbers\n\\d{3}\nx[\n").unwrap();
    let make = |toml: &str| {
        let config: ModerationConfig = toml::from_str(toml).unwrap();
        Chain::from_config(&config, folder.path())
    };
    let chain = make("[[filters]]\nname='a'\nreason_code='x'\nwords_file='words.txt'\nwords=['green']").unwrap();
    for text in ["red", "deep blue", "green"] {
        assert!(hits(&chain, text), "{text}");
    }
    assert!(!hits(&chain, "colours"));
    let error = make("[[filters]]\nname='a'\nreason_code='x'\npatterns_file='patterns.txt'").unwrap_err().to_string();
    assert!(error.contains("patterns.txt, line 3") && error.contains("`a`") && error.contains("unclosed"), "{error}");
    let error = make("[[filters]]\nname='a'\nreason_code='x'\nwords_file='none.txt'").unwrap_err().to_string();
    assert!(error.contains("none.txt"), "{error}");
    fs::write(folder.path().join("words.txt"), b"\xff\xfe").unwrap();
    make("[[filters]]\nname='a'\nreason_code='x'\nwords_file='words.txt'").unwrap_err();
}

#[test]
fn wrong_settings_are_named() {
    let cases = [
        ("", "found none"),
        ("words = ['a']\nbuiltin = ['iban']", "words and builtin"),
        ("words = []", "nothing to look for"),
        ("words = ['--']", "entry 1"),
        ("patterns = ['a', 'b(']", "entry 2"),
        ("patterns = ['a*']", "empty text"),
        ("patterns = ['a+']", "max_match_bytes"),
        ("patterns = ['a{300}']", "300"),
        ("patterns = ['[a&&b]']", "nothing"),
        ("patterns = ['\\w{1,64}x']", "257"),
        ("patterns = ['((((a{50}){50}){50}){50}){1,2}']", ""),
        ("patterns = ['a']\nmax_match_bytes = 0", "from 1 to"),
        ("words = ['a']\nmax_match_bytes = 10", "patterns"),
        ("builtin = []", "nothing to look for"),
        ("service = { url = 'ftp://x' }", "http"),
        ("service = { url = 'http://x', timeout_ms = 0 }", "timeout_ms"),
        ("service = { url = 'http://x', bearer_env = 'VERVE_NO_SUCH_VARIABLE' }", "VERVE_NO_SUCH_VARIABLE"),
    ];
    for (source, part) in cases {
        let result = try_chain(&format!("[[filters]]\nname = 'f'\nreason_code = 'r'\n{source}"));
        let error = result.expect_err(source).to_string();
        assert!(error.contains("`f`") && error.contains(part), "{source}: {error}");
    }
    // What is only asked of whole texts may match as much as it likes.
    try_chain("[[filters]]\nname='f'\nreason_code='r'\nstage='input'\npatterns=['a+b.*c']").unwrap();
    try_chain("[[filters]]\nname='f'\nreason_code='r'\npatterns=['\\w{1,64}x']\nmax_match_bytes=300").unwrap();
    let same = "[[filters]]\nname='f'\nreason_code='r'\nwords=['a']\n";
    assert!(try_chain(&format!("{same}{same}")).unwrap_err().to_string().contains("two filters"));
    assert!(try_chain("[[filters]]\nname=''\nreason_code='r'\nwords=['a']").unwrap_err().to_string().contains("name"));
    for unknown in
        ["colour = 1", "category = 'rude'", "builtin = ['phone']", "action = 'ban'", "service = { uri = 'x' }"]
    {
        let toml = format!("[[filters]]\nname='f'\nreason_code='r'\n{unknown}");
        assert!(toml::from_str::<ModerationConfig>(&toml).is_err(), "{unknown}");
    }
}
