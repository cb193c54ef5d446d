//! Stopping and resuming: bit-equal, or a clear message.

mod common;

use std::fs;

use common::*;
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
