//! Same bytes: what a request gets does not depend on who else is being served, how prompts are cut, what is found in the
//! cache, who is preempted or what is guessed. After every step, no block is lost.

#![allow(clippy::unwrap_used, reason = "in a test, a failure is a panic")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::mock::{END, Mock, N_VOCAB, expected};
use common::models::{Model, configs};
use common::{Record, Recorder};
use proptest::prelude::*;
use verve_cpu::{CpuBackend, Isa};
use verve_engine::*;
use verve_ops::KV_BLOCK;
use verve_testkit::Data;

/// Every third token allowed, in turn; fulfilled after some tokens; or broken in some way after some tokens.
#[derive(Debug, Clone)]
struct EveryThird {
    n_accepted: usize,
    length: usize,
    end: Ending,
    /// Turned down in this place, after having been allowed.
    not_after_all: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Complete,
    Error,
    Panic,
}

impl Constraint for EveryThird {
    fn allow(&mut self, _n_left: usize, allowed: &mut [u32]) -> Result<(), String> {
        match self.end {
            Ending::Error if self.n_accepted == self.length => return Err("asked to fail".to_owned()),
            Ending::Panic if self.n_accepted == self.length => panic!("asked to panic"),
            _ => {}
        }
        for id in (self.n_accepted % 3..N_VOCAB - 2).step_by(3) {
            if !self.not_after_all.contains(&(id as u32)) {
                allowed[id / 32] |= 1 << (id % 32);
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        assert_eq!(id as usize % 3, self.n_accepted % 3);
        assert!(!self.not_after_all.contains(&id));
        if (self.n_accepted + id as usize) % 4 == 1 && self.not_after_all.len() < 2 {
            self.not_after_all.push(id);
            return Ok(false);
        }
        self.not_after_all.clear();
        self.n_accepted += 1;
        Ok(true)
    }

    fn is_complete(&self) -> bool {
        self.end == Ending::Complete && self.n_accepted == self.length
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

impl ConstraintSource for EveryThird {
    fn start(&self, _n_left: usize) -> Result<Box<dyn Constraint>, String> {
        Ok(Box::new(self.clone()))
    }
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (
        prop::sample::select(vec![0.0f32, 0.7, 2.0]),
        prop::sample::select(vec![1.0f32, 0.8]),
        prop::sample::select(vec![1.0f32, 1.5]),
        any::<u64>(),
        prop_oneof![1usize..8, 1usize..150],
        prop::option::of(0usize..4),
        (any::<bool>(), any::<bool>()),
    )
        .prop_map(|(temperature, top_p, penalty, seed, max_tokens, n_logprobs, (ignore_eos, stops))| {
            SamplingParams {
                temperature,
                top_p,
                repetition_penalty: penalty,
                seed,
                max_tokens,
                n_logprobs,
                ignore_eos,
                stop: if stops { vec!["abab".to_owned()] } else { Vec::new() },
                ..SamplingParams::default()
            }
        })
}

fn any_beams() -> impl Strategy<Value = BeamSearch> {
    let stopping = prop::sample::select(vec![EarlyStopping::Heuristic, EarlyStopping::Full, EarlyStopping::Never]);
    (2usize..5, prop::sample::select(vec![0.0, 1.0, 2.0, -1.0]), stopping)
        .prop_map(|(width, length_penalty, early_stopping)| BeamSearch { width, length_penalty, early_stopping })
}

/// A prompt that begins like others do.
fn any_prompt() -> impl Strategy<Value = Vec<u32>> {
    let cut = prop::sample::select(vec![0usize, 1, 63, 64, 65, 128, 140, 192]);
    (0u64..3, cut, prop::collection::vec(0..N_VOCAB as u32, 0..40)).prop_map(|(text, cut, rest)| {
        let mut prompt = Data::new(text).ids(cut, N_VOCAB);
        prompt.extend(rest);
        prompt
    })
}

/// Texts that repeat themselves are worth guessing.
fn any_request(constraints: bool) -> impl Strategy<Value = Request> {
    let end = prop::sample::select(vec![Ending::Complete, Ending::Complete, Ending::Complete, Ending::Error]);
    let constraint = (1usize..20, end).prop_map(|(length, end)| EveryThird {
        n_accepted: 0,
        length,
        end,
        not_after_all: Vec::new(),
    });
    (
        any_prompt(),
        any_params(),
        (1usize..4, 0usize..3),
        prop::option::weighted(0.3, any_beams()),
        prop::option::weighted(0.2, 0usize..3),
        prop::option::weighted(0.1, prop::sample::select(vec![Pooling::Mean, Pooling::Last])),
        prop::option::weighted(0.3, constraint).prop_map(move |constraint| constraint.filter(|_| constraints)),
        (-1i32..2, 0u64..3),
    )
        .prop_map(|(prompt, params, (n, extra), beams, prompt_logprobs, embed, constraint, (priority, client))| {
            Request {
                prompt,
                params: match beams {
                    // Nothing is drawn. Where nothing is shared and there is little room, each token costs a whole answer.
                    Some(_) if embed.is_none() => {
                        SamplingParams { temperature: 1.0, top_p: 1.0, max_tokens: params.max_tokens % 8 + 1, ..params }
                    }
                    _ => params,
                },
                n: beams.map_or(n, |beams| n.min(beams.width)),
                best_of: if extra == 0 || (beams.is_some() && embed.is_none()) { 0 } else { n + extra },
                beams: beams.filter(|_| embed.is_none()),
                // Vectors are asked for alone.
                prompt_logprobs: prompt_logprobs.filter(|_| embed.is_none()),
                embed,
                constraint: constraint
                    .filter(|_| embed.is_none())
                    .map(|constraint| Arc::new(constraint) as Arc<dyn ConstraintSource>),
                priority,
                client,
            }
        })
}

/// How requests come and go.
#[derive(Debug, Clone)]
struct Visit {
    request: Request,
    /// Submitted before this step.
    arrives: usize,
    /// Cancelled before this step, counted from its arrival.
    cancelled_after: Option<usize>,
}

fn any_visit(constraints: bool) -> impl Strategy<Value = Visit> {
    (any_request(constraints), 0usize..60, prop::option::weighted(0.2, 0usize..40))
        .prop_map(|(request, arrives, cancelled_after)| Visit { request, arrives, cancelled_after })
}

/// Wrong half of the time.
struct Oracle {
    n: u64,
}

impl Drafter for Oracle {
    fn guess(&mut self, sequences: &mut [Guess<'_>]) -> Result<(), EngineError> {
        for guess in sequences {
            self.n += 1;
            let mut tokens = guess.tokens.to_vec();
            for at in 0..guess.most.min(5) {
                let logits = common::mock::logits_after(&tokens);
                let best = (0..N_VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
                let id = if (self.n + at as u64) % 4 == 3 { (best + 1) % N_VOCAB as u32 } else { best };
                tokens.push(id);
                guess.guesses.push(id);
            }
        }
        Ok(())
    }

    fn forget(&mut self, _id: u64) {}
}

/// Lets visits come and go; what each got, and what it took.
fn serve_visits<M: StepModel>(core: &mut Core<'_, M>, visits: &[Visit]) -> (Vec<Record>, Totals) {
    let mut recorder = Recorder::new(visits.len());
    let mut waiting: Vec<usize> = (0..visits.len()).collect();
    waiting.sort_by_key(|&visit| std::cmp::Reverse(visits[visit].arrives));
    // By the core's name.
    let mut names: BTreeMap<usize, usize> = BTreeMap::new();
    let mut step = 0;
    while !waiting.is_empty() || !core.is_idle() {
        while let Some(visit) = waiting.pop_if(|&mut visit| visits[visit].arrives <= step) {
            match core.submit(visits[visit].request.clone()) {
                Ok(name) => drop(names.insert(name, visit)),
                Err(error) => recorder.take(Event::Failed { request: visit, error }),
            }
        }
        for (&name, &visit) in &names {
            let Visit { arrives, cancelled_after, .. } = visits[visit];
            if cancelled_after.is_some_and(|after| arrives + after == step) {
                core.cancel(name, &mut |event| take(&mut recorder, &names, event));
            }
        }
        core.step(&mut |event| take(&mut recorder, &names, event)).unwrap();
        core.scheduler().check();
        step += 1;
        assert!(step < 100_000, "it goes on for ever");
    }
    let blocks = core.scheduler().blocks();
    assert_eq!(blocks.n_available(), blocks.n_blocks(), "a block was lost");
    (recorder.finish(), core.totals())
}

fn take(recorder: &mut Recorder, names: &BTreeMap<usize, usize>, event: Event<'_>) -> ControlFlow<()> {
    recorder.take(renamed(event, |name| names[&name]));
    ControlFlow::Continue(())
}

fn renamed<'a>(event: Event<'a>, new: impl Fn(usize) -> usize) -> Event<'a> {
    match event {
        Event::Prompt { request, tokens } => Event::Prompt { request: new(request), tokens },
        Event::Embedding { request, values } => Event::Embedding { request: new(request), values },
        Event::Token { request, choice, id, text, logprob, alternatives } => {
            Event::Token { request: new(request), choice, id, text, logprob, alternatives }
        }
        Event::Finished { request, choice, text, finish } => {
            Event::Finished { request: new(request), choice, text, finish }
        }
        Event::Failed { request, error } => Event::Failed { request: new(request), error },
    }
}

/// What came of a request that was ended early is the beginning of what it would have got. (Of several answers of which
/// the likeliest are wanted, others may be.)
fn is_beginning(found: &Record, whole: &Record, request: &Request) -> bool {
    let one = |found: &Record, whole: &Record| {
        found.tokens.len() <= whole.tokens.len() && found.tokens[..] == whole.tokens[..found.tokens.len()]
    };
    let prompt = found.prompt.is_empty() || found.prompt == whole.prompt;
    let answers = || {
        let mut whole = whole.clone();
        (0..request.n).all(|choice| one(found.clone().choice(choice), whole.choice(choice)))
    };
    whole.error.is_some() || (prompt && (request.best_of > request.n || request.beams.is_some() || answers()))
}

/// Of several answers that fail, the first to do so ends the request.
fn same_error(found: &Record, whole: &Record, request: &Request) -> bool {
    found.error == whole.error || (request.n.max(request.best_of) > 1 && found.error.is_some() == whole.error.is_some())
}

fn core_options() -> impl Strategy<Value = CoreOptions> {
    (prop_oneof![1usize..9, 1usize..200], prop_oneof![1usize..9, 1usize..100], any::<bool>()).prop_map(
        |(max_prompt_rows, max_outputs, share_prefixes)| CoreOptions { max_prompt_rows, max_outputs, share_prefixes },
    )
}

fn any_guesser() -> impl Strategy<Value = usize> {
    0usize..4
}

fn set_guesser<M: StepModel>(core: &mut Core<'_, M>, which: usize) {
    core.set_drafter(match which {
        0 => None,
        1 => Some(Box::new(PromptLookup { most: 4, longest: 3, shortest: 1 })),
        2 => Some(Box::new(Oracle { n: 0 })),
        // As good as the model, but for fewer and shorter sequences.
        _ => Some(Box::new(DraftModel::new(Mock::new(200, 7, 3, 12), 4, common::mock::N_ROWS).unwrap())),
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn on_the_mock_model_every_visit_gets_what_it_would_get_alone(
        visits in prop::collection::vec(any_visit(false), 1..20),
        options in core_options(),
        (rows, sequences, blocks) in (prop_oneof![1usize..5, 1usize..200], 1usize..9, 6usize..20),
        guesser in any_guesser(),
    ) {
        let mut mock = Mock::new(350, rows, sequences, blocks);
        let vocabulary = common::mock::vocabulary();
        let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
        set_guesser(&mut core, guesser);
        let (found, totals) = serve_visits(&mut core, &visits);
        for (visit, found) in visits.iter().zip(&found) {
            let whole = expected(&visit.request, 350);
            if found.reason() == Some(FinishReason::Cancelled) || found.more.iter().any(|r| r.reason() == Some(FinishReason::Cancelled)) {
                prop_assert!(visit.cancelled_after.is_some() && is_beginning(found, &whole, &visit.request));
            } else if whole.error.is_some() {
                prop_assert!(same_error(found, &whole, &visit.request));
            } else if visit.cancelled_after.is_none()
                || (visit.request.best_of <= visit.request.n && visit.request.beams.is_none())
            {
                prop_assert_eq!(found, &whole);
            }
        }
        prop_assert!(guesser > 0 || totals.n_guessed == 0);
        prop_assert!(totals.n_right <= totals.n_guessed);
    }

    /// With constraints, whose plain computation is the core's own, alone and without anything that could matter.
    #[test]
    fn constraints_guesses_and_company_go_together(
        visits in prop::collection::vec(any_visit(true), 1..16),
        options in core_options(),
        (rows, sequences, blocks) in (1usize..100, 1usize..9, 6usize..20),
        guesser in any_guesser(),
    ) {
        let vocabulary = common::mock::vocabulary();
        let mut mock = Mock::new(350, rows, sequences, blocks);
        let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
        set_guesser(&mut core, guesser);
        let (found, _) = serve_visits(&mut core, &visits);
        for (visit, found) in visits.iter().zip(&found) {
            let mut mock = Mock::new(350, 1000, 16, 200);
            let options = CoreOptions { max_prompt_rows: 1000, max_outputs: 1000, share_prefixes: false };
            let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
            let alone = Visit { arrives: 0, cancelled_after: None, ..visit.clone() };
            let whole = serve_visits(&mut core, &[alone]).0.remove(0);
            if visit.cancelled_after.is_none() && found.error.is_none() {
                prop_assert_eq!(found, &whole);
            } else {
                prop_assert!(is_beginning(found, &whole, &visit.request));
            }
            prop_assert!(visit.cancelled_after.is_some() || same_error(found, &whole, &visit.request));
        }
    }
}

#[test]
fn a_panic_in_a_grammar_ends_its_request_and_nothing_else() {
    let vocabulary = common::mock::vocabulary();
    let mut mock = Mock::new(350, 64, 4, 24);
    let options = CoreOptions::for_limits(mock.limits);
    let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
    let params = SamplingParams { max_tokens: 20, ignore_eos: true, ..SamplingParams::default() };
    let good = Request { prompt: vec![1, 2], params, ..Request::default() };
    let panics = EveryThird { n_accepted: 0, length: 5, end: Ending::Panic, not_after_all: Vec::new() };
    let bad = Request { constraint: Some(Arc::new(panics)), ..good.clone() };
    let visit = |request: &Request| Visit { request: request.clone(), arrives: 0, cancelled_after: None };
    let (found, _) = serve_visits(&mut core, &[visit(&good), visit(&bad), visit(&good)]);
    assert_eq!(found[0], expected(&good, 350));
    assert_eq!(found[2], found[0]);
    assert_eq!(found[1].tokens.len(), 5);
    let message = "the constraint on the answer cannot be met: it broke down: a bug in the grammar engine";
    assert_eq!(found[1].error.as_deref(), Some(message));
}

#[test]
fn what_others_have_computed_is_found() {
    let vocabulary = common::mock::vocabulary();
    let mut mock = Mock::new(350, 64, 8, 40);
    let options = CoreOptions::for_limits(mock.limits);
    let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
    let params = SamplingParams { max_tokens: 2, ignore_eos: true, ..SamplingParams::default() };
    let text = Data::new(3).ids(200, N_VOCAB - 1);
    let request = |rest: u32| {
        let prompt = text.iter().copied().chain([rest]).collect();
        Request { prompt, params: params.clone(), ..Request::default() }
    };
    // Together: the first computes, the others wait for it.
    let visits: Vec<Visit> =
        (0..5).map(|rest| Visit { request: request(rest), arrives: 0, cancelled_after: None }).collect();
    let (_, totals) = serve_visits(&mut core, &visits);
    assert_eq!(totals.n_found, 4 * 3 * KV_BLOCK);
    assert_eq!(totals.rows, 201 + 4 * (201 - 3 * KV_BLOCK) + 5);
    // Afterwards: what was left is found; several answers share their prompt.
    let many = Request { n: 4, ..request(9) };
    let (_, after) = serve_visits(&mut core, &[Visit { request: many, arrives: 0, cancelled_after: None }]);
    assert_eq!(after.since(totals).n_found, 4 * 3 * KV_BLOCK);
    core.forget_prefixes();
    assert_eq!(core.scheduler().blocks().n_idle(), 0);
}

#[test]
fn right_guesses_save_steps_and_wrong_ones_cost_no_answer() {
    let vocabulary = common::mock::vocabulary();
    let params = SamplingParams { max_tokens: 60, temperature: 0.0, ignore_eos: true, ..SamplingParams::default() };
    let request = Request { prompt: vec![1, 2, 3], params, ..Request::default() };
    let visit = Visit { request: request.clone(), arrives: 0, cancelled_after: None };
    let mut mock = Mock::new(350, 64, 8, 40);
    let options = CoreOptions::for_limits(mock.limits);
    let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
    set_guesser(&mut core, 2);
    let (found, totals) = serve_visits(&mut core, &[visit]);
    assert_eq!(found[0], expected(&request, 350));
    assert!(totals.steps < 35 && totals.n_right > 20, "{totals:?}");
}

#[test]
fn a_draft_model_guesses_and_must_have_the_same_ids() {
    let vocabulary = common::mock::vocabulary();
    let params = SamplingParams { max_tokens: 50, temperature: 0.0, ignore_eos: true, ..SamplingParams::default() };
    let request = Request { prompt: vec![1, 2, 3], params, ..Request::default() };
    let visit = Visit { request: request.clone(), arrives: 0, cancelled_after: None };
    let mut mock = Mock::new(350, 64, 8, 40);
    let options = CoreOptions::for_limits(mock.limits);
    let mut core = Core::new(&mut mock, &vocabulary, options).unwrap();
    set_guesser(&mut core, 3);
    let (found, totals) = serve_visits(&mut core, &[visit]);
    assert_eq!(found[0], expected(&request, 350));
    // The likeliest token of all rows need not be one that may be sampled.
    assert!(totals.steps < 30 && totals.n_right > 20, "{totals:?}");
    let error = DraftModel::new(Mock::new(200, 7, 3, 12), 4, 12).err().unwrap().to_string();
    assert_eq!(error, "the draft model has 14 token ids, the model 12: they must have the same tokenizer");
}

#[test]
fn clients_of_one_priority_share_and_a_greater_priority_goes_first() {
    let vocabulary = common::mock::vocabulary();
    let mut mock = Mock::new(350, 8, 1, 40);
    let mut core =
        Core::new(&mut mock, &vocabulary, CoreOptions { max_prompt_rows: 8, max_outputs: 8, share_prefixes: false })
            .unwrap();
    let params = SamplingParams { max_tokens: 4, ignore_eos: true, ..SamplingParams::default() };
    let request = |client, priority| Request {
        prompt: vec![END, 1],
        params: params.clone(),
        client,
        priority,
        ..Request::default()
    };
    // One client sends much, another a little later; then comes someone important.
    let asked =
        [request(1, 0), request(1, 0), request(1, 0), request(1, 0), request(2, 0), request(2, 0), request(3, 5)];
    for request in asked {
        core.submit(request).unwrap();
    }
    let mut ended = Vec::new();
    while !core.is_idle() {
        core.step(&mut |event| {
            if let Event::Finished { request, .. } = event {
                ended.push(request);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    assert_eq!(ended, [6, 0, 4, 1, 5, 2, 3]);
}

/// On real models: every request alone, and many of them in several kinds of company, over several seeds.
#[test]
fn on_real_models_sixty_four_visitors_get_the_bytes_they_would_get_alone() {
    for (name, config) in configs() {
        let backend = |threads| CpuBackend::<f32>::new(threads, Isa::detect()).unwrap();
        let model = Model::random(backend(1), name, config);
        for seed in 0..2 {
            let visits = real_visits(seed);
            let alone = EngineOptions { max_sequences: 4, share_prefixes: false, ..EngineOptions::default() };
            let whole: Vec<Record> = {
                let mut engine = model.engine(&alone);
                let one = |visit: &Visit| Visit { arrives: 0, cancelled_after: None, ..visit.clone() };
                visits.iter().map(|visit| serve_visits(engine.core(), &[one(visit)]).0.remove(0)).collect()
            };
            let busy = EngineOptions {
                max_sequences: 12,
                max_rows: 50,
                max_prompt_rows: 20,
                max_outputs: 40,
                cache_tokens: Some(12 * KV_BLOCK),
                prompt_lookup: Some(PromptLookup { most: 3, longest: 3, shortest: 1 }),
                ..EngineOptions::default()
            };
            let model = Model::random(backend(2), name, model.config.clone());
            let mut engine = model.engine(&busy);
            let (found, totals) = serve_visits(engine.core(), &visits);
            assert!(totals.n_found > 0 && totals.n_preempted > 0, "{totals:?}");
            for ((visit, found), whole) in visits.iter().zip(&found).zip(&whole) {
                if visit.cancelled_after.is_none() {
                    assert_eq!(found, whole, "{name}, {visit:?}");
                } else {
                    assert!(is_beginning(found, whole, &visit.request), "{name}, {visit:?}");
                }
            }
        }
    }
}

/// Requests that begin alike, some of them cancelled, with all kinds of parameters.
fn real_visits(seed: u64) -> Vec<Visit> {
    let n_vocab = common::models::N_VOCAB;
    let mut data = Data::new(seed + 100);
    let texts: Vec<Vec<u32>> = (0..3).map(|_| data.ids(130, n_vocab - 1)).collect();
    let visit = |number: usize| {
        let draw = Data::new(seed * 1000 + number as u64).ids(8, 1 << 16);
        let draw = |at: usize, below: u32| (draw[at] % below) as usize;
        let mut prompt = texts[draw(0, 3)][..[0, 64, 70, 128, 130][draw(1, 5)]].to_vec();
        prompt.extend(Data::new(number as u64).ids(1 + draw(2, 12), n_vocab - 1));
        let params = SamplingParams {
            temperature: [0.0, 0.8, 1.5][draw(3, 3)],
            top_p: [1.0, 0.9][draw(4, 2)],
            seed: number as u64,
            max_tokens: 1 + draw(5, 14),
            n_logprobs: Some(2),
            ..SamplingParams::default()
        };
        let beams = (number % 6 == 4).then(|| BeamSearch { width: 2 + number % 4, ..BeamSearch::default() });
        let params = match beams {
            Some(_) => SamplingParams { temperature: 0.0, top_p: 1.0, ..params },
            None => params,
        };
        let third = EveryThird { n_accepted: 0, length: 6, end: Ending::Complete, not_after_all: Vec::new() };
        let request = Request {
            prompt,
            params,
            n: if number.is_multiple_of(9) { 3.min(beams.map_or(3, |beams| beams.width)) } else { 1 },
            beams: beams.filter(|_| number % 35 != 2),
            prompt_logprobs: number.is_multiple_of(7).then_some(1),
            embed: (number % 35 == 2).then_some(Pooling::Mean),
            constraint: (number % 5 == 1).then(|| Arc::new(third) as Arc<dyn ConstraintSource>),
            priority: draw(6, 2) as i32,
            client: number as u64 % 4,
            ..Request::default()
        };
        Visit { request, arrives: draw(7, 25), cancelled_after: (number % 8 == 3).then_some(number / 4) }
    };
    (0..64).map(visit).collect()
}
