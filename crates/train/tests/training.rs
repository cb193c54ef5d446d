//! Runs as a whole: learning, figures, failures, what is kept on disk.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::atomic::AtomicBool;

use common::*;
use verve_model::formats;
use verve_ops::reference::Reference;
use verve_ops::{Backend, Buffer};
use verve_train::*;

type Host = Reference<f32>;

#[test]
fn one_batch_is_learnt_by_heart() {
    let world = World::with_documents(2);
    let config = config("[budget]\nsteps = 150\n[optimizer]\nlr = 0.02\nweight_decay = 0.0\n[eval]\nrows = 0");
    world.start(&Host::new(), "run", &config, &mut ()).unwrap();
    let metrics = read_metrics(&world.path("run")).unwrap();
    let (first, last) = (metrics.steps[0], metrics.steps[149]);
    assert!((first.loss - (VOCAB as f64).ln()).abs() < 0.1, "an untrained model knows nothing: {}", first.loss);
    assert!(last.loss < 0.4, "{}", last.loss);
    assert!(metrics.steps.iter().all(|s| s.loss.is_finite() && s.grad_norm > 0.0 && s.seconds > 0.0));
    assert!(metrics.evals.is_empty());
}

#[test]
fn a_run_folder_says_everything_about_the_run() {
    let world = World::new();
    let mut events = Vec::new();
    let outcome = world
        .start(
            &Host::new(),
            "run",
            &config("[checkpoint]\nevery_steps = 2\nkeep_last = 2"),
            &mut On(|event: &Event<'_>| events.push(format!("{event:?}").split([' ', '(']).next().unwrap().to_owned())),
        )
        .unwrap();
    assert_eq!(events[..3], ["Planned", "Eval", "Step"]);
    let summary = outcome.summary();
    assert_eq!((summary.step, summary.steps, summary.tokens), (12, 12, 12 * 64));

    let metrics = read_metrics(&world.path("run")).unwrap();
    assert_eq!(metrics.steps.iter().map(|s| s.step).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert_eq!(metrics.evals.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 4, 8, 12]);
    let eval = metrics.evals[3];
    assert!(eval.loss < metrics.evals[0].loss - 0.2, "{eval:?}");
    // 41 tokens (with the end of text) and 100 bytes a document.
    let bits = eval.loss / std::f64::consts::LN_2 * 41.0 / 100.0;
    assert!((eval.bits_per_byte - bits).abs() < 1e-12 && (eval.perplexity - eval.loss.exp()).abs() < 1e-12);

    // The recorded settings are complete: they resolve to themselves.
    let recorded = RunFolder::config(&world.path("run")).unwrap();
    assert_eq!(recorded.resolve(&Known::of(&world.shards, u64::MAX)).unwrap().config, recorded);
    for file in ["run.json", "data.json", "tokenizer.json", "samples.jsonl", "checkpoints/index.json"] {
        assert!(world.path("run").join(file).is_file(), "{file}");
    }
    let index = fs::read_to_string(world.path("run/checkpoints/index.json")).unwrap();
    assert!(index.contains("\"last\": \"step-00000012\""), "{index}");

    // Two newest, and the best, which here is the newest too.
    let mut kept: Vec<String> = fs::read_dir(world.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".json"))
        .collect();
    kept.sort();
    assert_eq!(kept.last().unwrap(), "step-00000012");
    assert!(kept.len() == 2, "{kept:?}");

    // A checkpoint is a model folder.
    let last = locate(&world.path("run"), Which::Last).unwrap();
    assert_eq!(last, summary.checkpoint);
    assert_eq!(locate(&world.path("run"), Which::Best).unwrap(), last);
    let model = formats::load(&last).unwrap();
    assert_eq!(model.family(), formats::Family::GptNeo);
    assert_eq!(model.ids().eos, [0]);
}

/// Generates something from the weights at every sample.
struct Sampling(Vec<u64>);

impl<B: Backend> Observer<B> for Sampling {
    fn sample(&mut self, request: SampleRequest<'_, B>) -> Option<Sample> {
        self.0.push(request.seed);
        let length = request.network.weights.final_norm.weight.len();
        Some(Sample { prompt: request.prompt.unwrap_or("none").to_owned(), text: length.to_string() })
    }
}

#[test]
fn samples_and_evaluations_do_not_change_the_run() {
    let world = World::new();
    let mut sampling = Sampling(Vec::new());
    let watched = config("[sample]\nevery = 5\nprompt = 'a'\n[eval]\nevery = 1\nrows = 3");
    let a = world.start(&Host::new(), "watched", &watched, &mut sampling).unwrap();
    let b = world.start(&Host::new(), "plain", &config("[eval]\nrows = 0\n[sample]\nevery = 0"), &mut ()).unwrap();
    assert!(state_files(&a.summary().checkpoint) == state_files(&b.summary().checkpoint));
    let samples = read_samples(&world.path("watched")).unwrap();
    assert_eq!(samples.iter().map(|s| s.step).collect::<Vec<_>>(), [5, 10, 12]);
    assert!(samples.iter().all(|s| s.prompt == "a"));
    assert!(sampling.0[0] != sampling.0[1]);
    assert!(read_samples(&world.path("plain")).unwrap().is_empty());
}

#[test]
fn a_step_that_is_not_finite_is_not_applied_and_is_kept() {
    let world = World::new();
    let backend = Host::new();
    let wild =
        config("[optimizer]\nlr = 1.0\nclip = 1e12\nweight_decay = 0.0\nbeta1 = 0.0\n[schedule]\nwarmup_steps = 0");
    // Weights of 1e19 overflow in the first product.
    world.start_and_stop(&backend, "run", &wild, 2);
    let checkpoint = locate(&world.path("run"), Which::Last).unwrap();
    poison(&world, &checkpoint);
    let error = world.resume(&backend, "run", &mut ()).unwrap_err();
    let TrainError::NotFinite { step, what, folder } = &error else { panic!("{error}") };
    assert_eq!(*step, 3);
    assert!(what.contains("the loss of token 0 in training row") && what.contains("gradient of tok_embed"), "{what}");
    let figures = fs::read_to_string(folder.join("figures.json")).unwrap();
    assert!(figures.contains("\"step\": 3") && figures.contains("NaN"), "{figures}");
    assert_eq!(fs::read_to_string(folder.join("rows.jsonl")).unwrap().lines().count(), 4);
    assert_eq!(read_metrics(&world.path("run")).unwrap().steps.len(), 2);
    assert!(world.resume(&backend, "run", &mut ()).is_err(), "it comes to the same step again");
}

/// Replaces a checkpoint's final norm by infinities, hashes included.
fn poison(world: &World, checkpoint: &std::path::Path) {
    let path = checkpoint.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let parsed: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = 8 + header + parsed["transformer.ln_f.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let state = checkpoint.join("state.json");
    let mut text: serde_json::Value = serde_json::from_str(&fs::read_to_string(&state).unwrap()).unwrap();
    text["files"]["model.safetensors"]["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
    fs::write(&state, test_seal(text)).unwrap();
    assert!(world.path("run").is_dir());
}

/// `state.json` with the hash over itself that belongs to it.
fn test_seal(mut state: serde_json::Value) -> String {
    state["seal"] = "".into();
    let hash = blake3::hash(serde_json::to_string(&state).unwrap().as_bytes()).to_hex().to_string();
    state["seal"] = hash.into();
    serde_json::to_string_pretty(&state).unwrap()
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_no_earlier_one_and_is_tried_again() {
    let world = World::new();
    let (checkpoints, away) = (world.path("run/checkpoints"), world.path("away"));
    let config = config("[checkpoint]\nevery_steps = 2\nwrite = 'blocking'\n[eval]\nrows = 0");
    let mut log = Vec::new();
    // Between steps 5 and 9 there is a file where the folder should be.
    let outcome = world.start(
        &Host::new(),
        "run",
        &config,
        &mut On(|event: &Event<'_>| match event {
            Event::Step(record) if record.step == 5 => {
                fs::rename(&checkpoints, &away).unwrap();
                fs::write(&checkpoints, "").unwrap();
            }
            Event::Step(record) if record.step == 9 => {
                fs::remove_file(&checkpoints).unwrap();
                fs::rename(&away, &checkpoints).unwrap();
            }
            Event::Checkpoint { step, .. } => log.push((*step, true)),
            Event::CheckpointFailed { step, .. } => log.push((*step, false)),
            _ => {}
        }),
    );
    assert_eq!(log, [(2, true), (4, true), (6, false), (8, false), (10, true), (12, true)]);
    assert!(outcome.is_ok());

    // And if the last one fails too, the run says so and names what there is.
    let (checkpoints, away) = (world.path("second/checkpoints"), world.path("away"));
    let error = world
        .start(
            &Host::new(),
            "second",
            &config,
            &mut On(|event: &Event<'_>| {
                if let Event::Step(StepRecord { step: 11, .. }) = event {
                    fs::rename(&checkpoints, &away).unwrap();
                    fs::write(&checkpoints, "").unwrap();
                }
            }),
        )
        .unwrap_err();
    let message = error.to_string();
    assert!(message.contains("reached step 12") && message.contains("The checkpoint of step 10 is whole"), "{message}");
    fs::remove_file(&checkpoints).unwrap();
    fs::rename(&away, &checkpoints).unwrap();
    assert!(matches!(world.resume(&Host::new(), "second", &mut ()), Ok(Outcome::Finished(_))));
}

#[test]
fn a_folder_belongs_to_one_run_and_one_process() {
    let world = World::new();
    fs::create_dir(world.path("used")).unwrap();
    fs::write(world.path("used/letter.txt"), "").unwrap();
    let error = RunFolder::create(&world.path("used")).unwrap_err();
    assert!(matches!(&error, TrainError::FolderNotEmpty { found, .. } if found == "letter.txt"), "{error}");
    let held = RunFolder::create(&world.path("run")).unwrap();
    let message = RunFolder::create(&world.path("run")).unwrap_err().to_string();
    assert!(message.contains("another run is at work") && message.contains("process"), "{message}");
    assert!(matches!(RunFolder::open(&world.path("run")), Err(TrainError::NoRun { .. })));
    // Prepared, but no run began in it: it may be taken again.
    fs::write(world.path("run/tokenizer.json"), "{}").unwrap();
    drop(held);
    let held = RunFolder::create(&world.path("run")).unwrap();
    let stop = AtomicBool::new(false);
    start(&Host::new(), &held, &config(""), &world.inputs(), &stop, &mut ()).unwrap();
    assert!(matches!(RunFolder::open(&world.path("run")), Err(TrainError::Locked { .. })));
    drop(held);
    assert!(matches!(RunFolder::create(&world.path("run")), Err(TrainError::HoldsRun { .. })));
    RunFolder::open(&world.path("run")).unwrap();
}

#[test]
fn a_model_folder_can_be_the_start() {
    let world = World::new();
    let first = world.start(&Host::new(), "first", &config(""), &mut ()).unwrap();
    let checkpoint = first.summary().checkpoint.display().to_string();
    let next = config(&format!("[run]\ninit = '{checkpoint}'"));
    world.start(&Host::new(), "second", &next, &mut ()).unwrap();
    let (a, b) = (read_metrics(&world.path("first")).unwrap(), read_metrics(&world.path("second")).unwrap());
    assert_eq!(a.evals[3].loss.to_bits(), b.evals[0].loss.to_bits());
    let other = next.overlaid("[model]\nn_layers = 1\nd_model = 16\nn_heads = 2\nn_ctx = 16", "test").unwrap();
    let message = world.start(&Host::new(), "third", &other, &mut ()).unwrap_err().to_string();
    assert!(message.contains("the model to start from"), "{message}");
}
