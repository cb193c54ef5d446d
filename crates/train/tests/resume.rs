//! Stopping and resuming: bit-equal, or a clear message.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::*;
use half::bf16;
use verve_cpu::{CpuBackend, Isa};
use verve_ops::reference::Reference;
use verve_train::*;

#[test]
fn a_stopped_run_goes_on_as_if_it_had_not_stopped_at_any_step() {
    let world = World::new();
    let backend = Reference::<f32>::new();
    let config = config("");
    let straight = world.start(&backend, "straight", &config, &mut ()).unwrap();
    let expected = state_files(&straight.summary().checkpoint);
    for stop in [1, 4, 7, 11] {
        let name = format!("stop-{stop}");
        let stopped = world.start_and_stop(&backend, &name, &config, stop);
        assert!(matches!(&stopped, Outcome::Stopped(summary) if summary.step == stop));
        let resumed = world.resume(&backend, &name, &mut ()).unwrap();
        assert!(matches!(&resumed, Outcome::Finished(summary) if summary.best == straight.summary().best));
        assert!(state_files(&resumed.summary().checkpoint) == expected, "stopped at {stop}");
        assert_eq!(figures(&world.path(&name)), figures(&world.path("straight")));
    }
}

#[test]
fn bits_do_not_depend_on_threads_stops_or_how_checkpoints_are_written() {
    let world = World::new();
    let isa = Isa::from_env().unwrap();
    let config = config("[run]\ndtype = 'bf16'\n[batch]\nramp_start_tokens = 32\nramp_tokens = 200");
    let backend = |threads| CpuBackend::<bf16>::new(threads, isa).unwrap();
    let straight = world.start(&backend(1), "straight", &config, &mut ()).unwrap();
    let expected = state_files(&straight.summary().checkpoint);
    for (threads, then, write) in [(2, 3, "background"), (3, 1, "blocking")] {
        let name = format!("threads-{threads}");
        let config = config.overlaid(&format!("[checkpoint]\nwrite = '{write}'"), "test").unwrap();
        world.start_and_stop(&backend(threads), &name, &config, 5);
        // Another recomputation level is harmless.
        let recorded = RunFolder::config(&world.path(&name)).unwrap();
        let wanted = recorded.overlaid("[run]\nrecompute = 'blocks'", "test").unwrap();
        let resumed = world.resume_with(&backend(then), &name, &wanted, &mut ()).unwrap();
        assert!(state_files(&resumed.summary().checkpoint) == expected, "{threads} threads, then {then}");
        assert_eq!(figures(&world.path(&name)), figures(&world.path("straight")));
    }
    // The ramp is there: fewer tokens in the first step than in the last.
    let steps = read_metrics(&world.path("straight")).unwrap().steps;
    assert_eq!((steps[0].tokens, steps[11].tokens - steps[10].tokens), (32, 64));
}

#[test]
fn without_a_checkpoint_the_run_begins_again_and_a_finished_one_stays_finished() {
    let world = World::new();
    let backend = Reference::<f32>::new();
    let done = world.start(&backend, "a", &config(""), &mut ()).unwrap();
    let (files, lines) = (state_files(&done.summary().checkpoint), figures(&world.path("a")));
    let again = world.resume(&backend, "a", &mut ()).unwrap();
    assert!(matches!(again, Outcome::Finished(ref summary) if summary.loss.is_none()));
    assert_eq!(figures(&world.path("a")), lines);
    // As after a kill before the first checkpoint, with a line cut in the middle.
    fs::remove_dir_all(world.path("a/checkpoints")).unwrap();
    fs::create_dir(world.path("a/checkpoints")).unwrap();
    let text = fs::read(world.path("a/metrics.jsonl")).unwrap();
    fs::write(world.path("a/metrics.jsonl"), &text[..text.len() - 20]).unwrap();
    let again = world.resume(&backend, "a", &mut ()).unwrap();
    assert!(state_files(&again.summary().checkpoint) == files);
    assert_eq!(figures(&world.path("a")), lines);
}

fn damaged_run(world: &World, damage: impl FnOnce(&Path)) -> (Vec<String>, Result<Outcome>) {
    let backend = Reference::<f32>::new();
    let config = config("[checkpoint]\nevery_steps = 3\nkeep_last = 3");
    world.start(&backend, "damaged", &config, &mut ()).unwrap();
    damage(&world.path("damaged/checkpoints"));
    let mut reported = Vec::new();
    let outcome = world.resume(
        &backend,
        "damaged",
        &mut On(|event: &Event<'_>| {
            if let Event::DamagedCheckpoint(error) = event {
                reported.push(error.to_string());
            }
        }),
    );
    (reported, outcome)
}

#[test]
fn a_damaged_checkpoint_is_reported_and_the_one_before_is_used() {
    for file in ["model.safetensors", "train_state.safetensors", "state.json", "config.json", "tokenizer.json"] {
        let world = World::new();
        let mut expected = Vec::new();
        let (reported, outcome) = damaged_run(&world, |checkpoints| {
            let newest = checkpoints.join("step-00000012");
            expected = state_files(&newest);
            let path = newest.join(file);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        });
        assert!(reported.len() == 1 && reported[0].contains("step-00000012"), "{file}: {reported:?}");
        assert!(state_files(&outcome.unwrap().summary().checkpoint) == expected, "{file}");
        assert!(world.path("damaged/checkpoints/damaged-step-00000012").is_dir());
    }
}

#[test]
fn when_all_are_damaged_nothing_is_lost_and_the_message_says_so() {
    let world = World::new();
    let (reported, outcome) = damaged_run(&world, |checkpoints| {
        for entry in fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                let file = fs::File::options().write(true).open(entry.join("model.safetensors")).unwrap();
                file.set_len(100).unwrap();
            }
        }
    });
    assert!(reported.len() >= 3);
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("none of the") && message.contains("has 100 bytes"), "{message}");
}

#[test]
fn settings_that_would_make_another_run_are_refused() {
    let world = World::new();
    let backend = Reference::<f32>::new();
    world.start_and_stop(&backend, "run", &config(""), 3);
    let recorded = RunFolder::config(&world.path("run")).unwrap();
    for (text, key) in [
        ("[optimizer]\nlr = 0.02", "[optimizer] lr"),
        ("[run]\nseed = 6", "[run] seed"),
        ("[batch]\nmicro_batch = 4", "[batch] micro_batch"),
        ("[eval]\nrows = 6", "[eval] rows"),
        ("[budget]\nminutes = 1.0", "[budget] minutes"),
    ] {
        let wanted = recorded.overlaid(text, "test").unwrap();
        let error = world.resume_with(&backend, "run", &wanted, &mut ()).unwrap_err();
        assert!(matches!(&error, TrainError::SettingChanged { key: found, .. } if found == key), "{text}: {error}");
    }
    let fewer = recorded.overlaid("[budget]\nsteps = 2", "test").unwrap();
    let message = world.resume_with(&backend, "run", &fewer, &mut ()).unwrap_err().to_string();
    assert!(message.contains("has done 3 steps already"), "{message}");
    // A longer budget goes on along the recorded schedule.
    let more = recorded.overlaid("[budget]\nsteps = 14\n[sample]\nprompt = 'x'", "test").unwrap();
    let outcome = world.resume_with(&backend, "run", &more, &mut ()).unwrap();
    assert_eq!(outcome.summary().step, 14);
    let straight = world.start(&backend, "straight", &config(""), &mut ());
    assert!(straight.is_ok());
    let (a, b) = (read_metrics(&world.path("run")).unwrap(), read_metrics(&world.path("straight")).unwrap());
    assert_eq!(a.steps[11].loss.to_bits(), b.steps[11].loss.to_bits());
}

#[test]
fn other_data_and_another_tokenizer_are_refused() {
    let world = World::new();
    let backend = Reference::<f32>::new();
    world.start_and_stop(&backend, "run", &config(""), 3);
    fs::write(world.path("run/tokenizer.json"), "{}").unwrap();
    let message = world.resume(&backend, "run", &mut ()).unwrap_err().to_string();
    assert!(message.contains("not the tokenizer that the run began with"), "{message}");
    fs::copy(&world.tokenizer, world.path("run/tokenizer.json")).unwrap();
    let other = World::with_documents(61);
    let folder = RunFolder::open(&world.path("run")).unwrap();
    let config = RunFolder::config(folder.path()).unwrap();
    let error = resume(&backend, &folder, &config, &other.inputs(), &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(matches!(error, TrainError::Shard(verve_shard::Error::DataChanged { .. })), "{error}");
}

#[test]
fn verify_resume_finds_equal_runs_equal() {
    let world = World::new();
    let backend = Reference::<f32>::new();
    let stop = AtomicBool::new(false);
    let report =
        verify_resume(&backend, &backend, &world.path("run"), &config(""), &world.inputs(), &stop, &mut |_| ())
            .unwrap();
    assert_eq!((report.steps, report.stopped_at, report.metric_lines), (12, 6, 12 + 4));
    assert_eq!(report.differences, Vec::<String>::new());
    assert!(report.elements > 3 * 16 * VOCAB as u64);
    // Nothing is left behind.
    let left = fs::read_dir(world.dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(left, 1);
}

#[test]
fn minutes_become_steps_once() {
    let world = World::new();
    let backend = Reference::<f32>::new();
    let timed = config("[budget]\nminutes = 0.005");
    let mut stop_at = 2;
    let folder = RunFolder::create(&world.path("timed")).unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = On(|event: &Event<'_>| {
        if let Event::Step(record) = event {
            stop_at = record.step;
            stop.store(record.step >= 2, std::sync::atomic::Ordering::SeqCst);
        }
    });
    start(&backend, &folder, &timed, &world.inputs(), &stop, &mut observer).unwrap();
    drop(folder);
    let recorded = RunFolder::config(&world.path("timed")).unwrap();
    let steps = recorded.budget.steps.unwrap();
    assert_eq!((recorded.budget.minutes, recorded.budget.chosen_for_minutes), (None, Some(0.005)));
    // Asking for the same minutes again is asking for the same run.
    let again = recorded.overlaid("[budget]\nminutes = 0.005", "test").unwrap();
    let outcome = world.resume_with(&backend, "timed", &again, &mut ()).unwrap();
    assert_eq!(outcome.summary().step, steps);
    // The measurement left nothing behind: the same steps without one give the same bits.
    let plain = world.start(&backend, "plain", &config(&format!("[budget]\nsteps = {steps}")), &mut ()).unwrap();
    assert!(state_files(&plain.summary().checkpoint) == state_files(&outcome.summary().checkpoint));
}
