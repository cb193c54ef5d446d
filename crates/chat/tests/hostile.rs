//! Templates that are broken, that loop or that want all memory: each ends with one clear message.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use verve_chat::{ChatError, ChatInput, ChatTemplate, Limits, Message, Role, SpecialTexts};

fn render(source: &str) -> Result<String, ChatError> {
    let template = ChatTemplate::new(source, SpecialTexts::default())?;
    template.render(&ChatInput::new(&[Message::new(Role::User, "hello")]))
}

#[track_caller]
fn says(source: &str, parts: &[&str]) {
    let message = render(source).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message:?}");
    }
}

#[test]
fn broken_templates_name_the_line() {
    says("a\nb\n{% if %}", &["malformed", "line 3"]);
    says("{% for m in messages %}\n{{ m.role }}", &["malformed", "line 2", "end of"]);
    says("{% endfor %}", &["malformed", "line 1", "endfor"]);
    says("{{ 'abc }}", &["malformed", "line 1"]);
    says("{% nonsense %}", &["malformed", "nonsense"]);
    says("x\n{{ messages | nofilter }}", &["line 2", "nofilter"]);
    says("x\n{{ messages is notest }}", &["line 2", "notest"]);
    says("{% include 'x' %}", &["line 1"]);
}

#[test]
fn failing_templates_say_what_and_where() {
    says("\n{{ raise_exception('Roles must alternate!') }}", &["refuses", "line 2", "Roles must alternate!"]);
    says(
        "{% macro m() %}\n{{ raise_exception('in a macro') }}{% endmacro %}{{ m() }}",
        &["refuses", "line 2", "in a macro"],
    );
    says("{{ messages[0].nothing.more }}", &["failed", "line 1", "undefined"]);
    says("{{ 'a' + 1 }}", &["failed", "line 1", "+"]);
    says("{{ messages.append(1) }}", &["failed", "append"]);
    says("{{ strftime_now('%!') }}", &["failed", "%!"]);
    says("{{ messages | tojson(indent=1000000) }}", &["failed", "too wide"]);
    let error = ChatTemplate::new("x", SpecialTexts::default()).unwrap().render(&ChatInput::new(&[])).unwrap_err();
    assert!(matches!(error, ChatError::NoMessages));
}

#[test]
fn endless_work_is_stopped() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s.join(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s | join(ns.s) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        "{% for a in range(99999) %}{{ messages | tojson | tojson }}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = ([ns.l] * 1000) | sum(start=[]) %}{% endfor %}",
        "{% set ns = namespace(l=[1] * 100000000) %}{% for i in range(64) %}{% set ns.l = ns.l + [1] %}{% endfor %}",
        "{% set ns = namespace(l=(1, 2)) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(d={}) %}{% for i in range(64) %}{% set ns.d = {'a': ns.d, 'b': ns.d} %}{% endfor %}",
        "{% set ns = namespace(d={}) %}{% for i in range(64) %}{% set ns.d = dict(a=ns.d, b=ns.d) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] | list %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
        "{% set ns = namespace(a=namespace()) %}{{ ns }}",
        "{{ '' ~ ([0] * 1000000000) }}",
        "{{ ([0] * 1000000000) | upper }}",
        "{% macro m(x) %}{{ m([x, x]) }}{% endmacro %}{{ m(1) }}",
        "{% for x in [1] recursive %}{{ loop([x, x]) }}{% endfor %}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ range(100000) | list | string | length }}{% for i in range(1000) %}{{ range(100000) | list | length }}{% endfor %}",
    ] {
        match render(source) {
            Err(ChatError::TooMuchWork { line: 1 } | ChatError::Failed { .. } | ChatError::OutputTooLong { .. }) => {}
            other => panic!("{source}: {other:?}"),
        }
    }
    says("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", &["line 1", "loops"]);
}

#[test]
fn recursion_is_stopped() {
    says("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", &["line 1", "recursion"]);
    for repeated in ["not ", "a.", "1+", "a|b|", "a if b else ", "-", "a[", "a(", "1 if ", "a and "] {
        assert!(render(&format!("{{{{ {}1 }}}}", repeated.repeat(20_000))).is_err(), "{repeated}");
    }
    drop(render(&format!("{{{{ {}1 }}}}", "not ".repeat(4_900))));
    drop(render(&format!("{{{{ {}1 }}}}", "1 + ".repeat(2_400))));
    drop(render(&format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(9_000))));
    assert!(render(&"{{1}}".repeat(10_001)).unwrap_err().to_string().contains("more tags"));
    let deep = |open: &str, close: &str, n: usize| format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n));
    for source in [deep("(", ")", 100_000), deep("[", "]", 100_000), deep("-", "", 100_000), deep("not ", "", 100_000)]
    {
        assert!(matches!(render(&source), Err(ChatError::Malformed { .. } | ChatError::SourceTooLong { .. })));
    }
    assert!(render(&format!("{}x{}", "{% if true %}".repeat(10_000), "{% endif %}".repeat(10_000))).is_err());
    // A value nested as deeply as the work allowed lets it become; dropping and showing it must not overflow the stack.
    for show in [
        "",
        "{{ ns.x }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x == ns.x }}",
        "{{ ns.x | string | length }}",
        "{{ [ns.x, ns.x] | unique | list | length }}",
    ] {
        drop(render(&format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(100000) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}{show}"
        )));
        drop(render(&format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(9000) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}{show}"
        )));
        drop(render(&format!(
            "{{% set ns = namespace(x={{}}) %}}{{% for i in range(9000) %}}{{% set ns.x = {{'a': ns.x}} %}}{{% endfor %}}{show}"
        )));
    }
}

#[test]
fn long_sources_and_texts() {
    let limits = Limits { source_bytes: 10, ..Limits::default() };
    let error =
        ChatTemplate::with("12345678901", SpecialTexts::default(), limits, verve_chat::Clock::Local).unwrap_err();
    assert_eq!(error.to_string(), "the chat template has 11 bytes, at most 10 are allowed");
    let limits = Limits { output_bytes: 100, ..Limits::default() };
    let source = "{% for i in range(100) %}0123456789{% endfor %}{{ messages }}";
    let template = ChatTemplate::with(source, SpecialTexts::default(), limits, verve_chat::Clock::Local).unwrap();
    let error = template.render(&ChatInput::new(&[Message::new(Role::User, "x")])).unwrap_err();
    assert!(error.to_string().contains("wrote more than"), "{error}");
}

#[test]
fn long_conversations_are_no_attack() {
    let text = "word ".repeat(40_000);
    let messages: Vec<Message> = (0..2_000)
        .map(|i| {
            Message::new(
                if i % 2 == 0 { Role::User } else { Role::Assistant },
                if i == 0 { text.as_str() } else { "Hi." },
            )
        })
        .collect();
    for name in verve_chat::builtin_names() {
        let specials = SpecialTexts { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTexts::default() };
        let template = ChatTemplate::new(verve_chat::builtin(name).unwrap(), specials).unwrap();
        let rendered = template.render(&ChatInput::new(&messages)).unwrap();
        assert!(rendered.len() > text.len() + 4 * 1_999, "{name}");
    }
    // Templates collect messages like this, which walks all of them each time.
    let source = "{% set ns = namespace(seen=[]) %}{% for m in messages %}{% set ns.seen = ns.seen + [m] %}{% endfor %}{{ ns.seen | length }}";
    let template = ChatTemplate::new(source, SpecialTexts::default()).unwrap();
    assert_eq!(template.render(&ChatInput::new(&messages[..500])).unwrap(), "500");
}

/// Well-formed expressions with every operator.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a",
        "'x, (y'",
        "1",
        "2.5",
        "none",
        "m.in",
        "a.b[1:2]",
        "f(a, b=1)",
        "[]",
        "{}",
        "a | f",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 3, |inner| {
        let op = prop::sample::select(vec![
            " + ", "+", " - ", " * ", " / ", " // ", " % ", " ** ", " ~ ", " == ", " < ", " and ", " or ", " in ",
            " not in ",
        ]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("{a}{op}{b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}, {b})[0]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'k': {a}, {b}: 1}}")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).g({b}) | h({a})")),
            inner.clone().prop_map(|a| format!("({a}) is not none")),
            // After an operator, a bare `not` is no expression (`a * not b`).
            inner.clone().prop_map(|a| format!("(not ({a}))")),
            inner.prop_map(|a| format!("(-({a}))")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_template_or_an_error(source in "(\\{\\{|\\}\\}|\\{%|%\\}|#|\"|'|\\\\| |-|if |for |endif|set |x|generation|endgeneration|é|[ -~]|\\n){0,40}") {
        drop(render(&source));
    }

    #[test]
    fn metering_keeps_templates_well_formed(e in expression()) {
        for source in [
            format!("{{{{ {e} }}}}"),
            format!("{{% set x = {e} %}}{{% set ns.x = {e} %}}"),
            format!("{{%- if {e} -%}}{{% elif {e} %}}{{% endif %}}"),
            format!("{{% for x, y in {e} if {e} %}}{{% endfor %}}"),
            format!("{{% macro m(a, b={e}) %}}{{% endmacro %}}{{% call(q) m({e}) %}}{{% endcall %}}"),
            format!("{{% with x = {e}, y = {e} %}}{{% endwith %}}"),
        ] {
            let plain = minijinja::Environment::new().template_from_str(&source).map(|_| ());
            let ours = ChatTemplate::new(&source, SpecialTexts::default());
            prop_assert!(plain.is_err() || ours.is_ok(), "{source}: {:?}", ours.err());
        }
    }
}
