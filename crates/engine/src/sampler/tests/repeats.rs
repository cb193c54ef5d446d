//! The DRY penalty against the plainest computation.

use super::*;

/// Where in a sequence no repetition goes across: by token.
fn breaks(vocabulary: &Vocabulary, breakers: &[String], tokens: &[u32]) -> Vec<bool> {
    let mut text = Vec::new();
    let breaks = |&id: &u32| {
        let before = text.len();
        text.extend_from_slice(vocabulary.bytes(id));
        let complete =
            |breaker: &String| (before + 1..=text.len()).any(|end| text[..end].ends_with(breaker.as_bytes()));
        text.len() == before || breakers.iter().any(complete)
    };
    tokens.iter().map(breaks).collect()
}

/// What DRY takes off a token's logit.
pub(super) fn penalty(question: &Question<'_>, id: u32) -> f64 {
    let p = question.params;
    if p.dry_multiplier == 0.0 || breaks(question.vocabulary, &p.dry_breakers, &[id])[0] {
        return 0.0;
    }
    let all = [question.prompt, question.answer].concat();
    let breaks = breaks(question.vocabulary, &p.dry_breakers, &all);
    let start = if p.dry_range == 0 { 0 } else { all.len().saturating_sub(p.dry_range) };
    let (tokens, breaks) = (&all[start..], &breaks[start..]);
    let n = tokens.len();
    let mut longest = 0;
    for place in (1..n).filter(|&place| tokens[place] == id) {
        let same = |len: &usize| tokens[place - len] == tokens[n - len] && !breaks[n - len];
        longest = longest.max((1..=place.min(50)).take_while(same).count());
    }
    if longest < p.dry_allowed_length {
        return 0.0;
    }
    f64::from(p.dry_multiplier) * f64::from(p.dry_base).powi((longest - p.dry_allowed_length) as i32)
}

fn texts() -> Vocabulary {
    Vocabulary::from_bytes(["a", "b", "ab", "\n", "b\n", "", "c", "abc", "d\nd"])
}

fn dry() -> impl Strategy<Value = SamplingParams> {
    let breaker = prop::sample::select(vec!["\n", "ab", "ca", "b\na", "bc"]).prop_map(String::from);
    let breakers = prop::collection::vec(breaker, 0..3);
    let sizes = (1usize..5, 0usize..30);
    let strength = (eighths(1..20), prop::sample::select(vec![1.0f32, 1.5, 2.0]), often_zero_or_one(0.2..2.0));
    (breakers, sizes, strength, any::<u64>()).prop_map(|(dry_breakers, sizes, strength, seed)| SamplingParams {
        temperature: strength.2,
        dry_multiplier: strength.0,
        dry_base: strength.1,
        dry_allowed_length: sizes.0,
        dry_range: sizes.1,
        dry_breakers,
        seed,
        ..SamplingParams::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn repetitions_of_any_kind(
        logits in prop::collection::vec(eighths(-24..24), 9),
        params in dry(),
        // Few tokens, so that they repeat; at times a pattern over and over.
        pattern in prop::collection::vec(prop_oneof![12 => 0u32..3, 1 => 3u32..9], 1..12),
        times in 1usize..4,
        answer in prop::collection::vec(prop_oneof![12 => 0u32..3, 1 => 3u32..9], 0..12),
    ) {
        let vocabulary = texts();
        params.validate(&vocabulary).unwrap();
        let prompt = pattern.repeat(times);
        let question = Question { prompt: &prompt, answer: &answer, ..Question::new(&logits, &vocabulary, &params) };
        let mut sampler = question.sampler();
        for index in 0..4 {
            question.check(&mut sampler, index)?;
        }
        // The penalties themselves, which few draws show.
        let mut history = History::new(&params, &prompt);
        answer.iter().for_each(|&id| history.push(id, None));
        sampler.read(&logits, 0).unwrap();
        sampler.penalise(&params, &history);
        for (id, &found) in (0..).zip(&sampler.logits) {
            let expected = f64::from(logits[id as usize]) - penalty(&question, id);
            prop_assert!((f64::from(found) - expected).abs() < 1e-3, "token {}: {}, not {}", id, found, expected);
        }
    }
}

/// Greedy: which token follows when token `rival` is `ahead` of token 5, which nothing penalises.
fn follows(params: &SamplingParams, tokens: &[u32], rival: u32, ahead: f32) -> u32 {
    let vocabulary = Vocabulary::from_bytes(["zero", "one", "two", "three", "four", "five", "six:", "\n"]);
    let mut logits = [-20.0f32; 8];
    (logits[rival as usize], logits[5]) = (ahead, 0.0);
    let params = SamplingParams { temperature: 0.0, ..params.clone() };
    params.validate(&vocabulary).unwrap();
    let (prompt, answer) = tokens.split_at(tokens.len() / 2);
    let question = Question { prompt, answer, ..Question::new(&logits, &vocabulary, &params) };
    question.ask(&mut question.sampler(), answer.len()).unwrap().id
}

#[test]
fn by_hand() {
    let params = SamplingParams { dry_multiplier: 0.8, ..SamplingParams::default() };
    // Three tokens repeat, two may: 0.8 x 1.75 = 1.4.
    let tokens = [1, 2, 3, 4, 1, 2, 3];
    assert_eq!(follows(&params, &tokens, 4, 1.39), 5);
    assert_eq!(follows(&params, &tokens, 4, 1.41), 4);
    // Other tokens are free, and so is this one where it would not go on with the repetition.
    assert_eq!(follows(&params, &tokens, 2, 0.01), 2);
    assert_eq!(follows(&params, &tokens[..6], 4, 0.01), 4);
    // One token is no repetition yet; two are, with the multiplier alone.
    assert_eq!(follows(&params, &tokens[..5], 2, 0.01), 2);
    assert_eq!(follows(&params, &tokens[..6], 3, 0.79), 5);
    assert_eq!(follows(&params, &tokens[..6], 3, 0.81), 3);
    // The longest of several counts: 2 3 was followed by 4, 1 2 3 by 4 as well.
    assert_eq!(follows(&params, &[2, 3, 4, 1, 2, 3, 4, 0, 1, 2, 3], 4, 1.39), 5);
    // The range cuts the first occurrence: of 1 2 3 in the last six tokens, 2 3 is left.
    let short = |dry_range| SamplingParams { dry_range, ..params.clone() };
    assert_eq!(follows(&short(7), &tokens, 4, 1.39), 5);
    assert_eq!(follows(&short(6), &tokens, 4, 0.81), 4);
    assert_eq!(follows(&short(6), &tokens, 4, 0.79), 5);
    // A breaker within, whole or as a part of a token's text.
    for breaker in [6, 7] {
        assert_eq!(follows(&params, &[1, 2, breaker, 4, 1, 2, breaker], 4, 0.01), 4);
        assert_eq!(follows(&params, &[1, breaker, 2, 3, 4, 1, breaker, 2, 3], 4, 0.81), 4);
        assert_eq!(follows(&params, &[1, 2, 3, breaker, 1, 2, 3], breaker, 0.01), breaker);
    }
    // A breaker over two tokens.
    let joined = SamplingParams { dry_breakers: vec!["etw".into()], ..params.clone() };
    assert_eq!(follows(&joined, &[4, 3, 2, 1, 0, 4, 3, 2, 1], 0, 0.01), 0);
    assert_eq!(follows(&joined, &[4, 3, 2, 1, 1, 0, 4, 3, 2, 1, 1], 0, 0.81), 0);
    assert_eq!(follows(&joined, &[4, 3, 2, 1, 1, 0, 4, 3, 2, 1, 1], 0, 0.79), 5);
}

#[test]
fn no_penalty_takes_the_last_choice_away() {
    let params = SamplingParams { dry_multiplier: 100.0, dry_base: 100.0, ..SamplingParams::default() };
    let vocabulary = Vocabulary::from_bytes(["a"]);
    let question = Question { prompt: &[0; 5000], ..Question::new(&[1.0], &vocabulary, &params) };
    assert_eq!(question.ask(&mut question.sampler(), 0).unwrap().id, 0);
}
