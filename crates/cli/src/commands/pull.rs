//! `verve pull`.

use std::path::Path;

use anyhow::Result;
use verve_hub::{Event, Hub, Plan, RepoId, Settings, Target};

use crate::args::PullArgs;
use crate::progress::{Progress, Unit};
use crate::{interrupt, output, units};

pub fn run(args: PullArgs) -> Result<()> {
    let repo: RepoId = args.model.parse()?;
    let settings = Settings::from_env()?;
    let target = args.to.clone().map_or(Target::Cache, Target::Folder);
    let cancel = interrupt::watch("stopping; the part that is there is kept")?;
    let hub = Hub::new(&settings, &cancel)?;
    let plan = hub.plan(&repo, &args.file, &target, &mut |event| show_retry(&event))?;
    show_plan(&plan, &settings);
    if args.plan {
        return Ok(());
    }
    let mut progress = Progress::new(repo.name(), Unit::Bytes, plan.bytes);
    let mut done = 0_u64;
    let folder = hub.download(&plan, &target, &mut |event| {
        match event {
            Event::File { have, .. } => done += have,
            Event::Bytes(n) => done += n,
            Event::Discarded(n) => done = done.saturating_sub(n),
            ref other => show_retry(other),
        }
        progress.at(done, plan.bytes);
    });
    progress.finish();
    if folder.as_ref().is_err_and(|error| error.can_go_on()) && done > 0 {
        eprintln!("{} are there; the same command goes on from them", units::bytes(done));
    }
    let folder = folder?;
    eprintln!("{} is there. Try it:  verve chat --model {}", repo, usable_name(&repo, &target, &folder));
    output::line(folder.display().to_string())
}

/// What `--model` takes for the files that were just downloaded.
fn usable_name(repo: &RepoId, target: &Target, folder: &Path) -> String {
    match target {
        Target::Cache => repo.to_string(),
        Target::Folder(_) => folder.display().to_string(),
    }
}

fn show_plan(plan: &Plan, settings: &Settings) {
    eprintln!("{} at {}, commit {}", plan.repo, settings.endpoint, &plan.commit[..12]);
    for file in &plan.choice.files {
        let size = file.size.map_or_else(|| "size unknown".to_owned(), units::bytes);
        eprintln!("  {:<44} {size:>12}", file.path);
    }
    let have = if plan.have > 0 { format!(", {} already there", units::bytes(plan.have)) } else { String::new() };
    eprintln!("{} file(s), {}{have}", plan.choice.files.len(), units::bytes(plan.bytes));
    if !plan.choice.others.is_empty() {
        eprintln!("left out: {} (--file NAME takes another)", plan.choice.others.join(", "));
    }
}

fn show_retry(event: &Event<'_>) {
    if let Event::Retry { error, wait } = event {
        eprintln!("{error}; trying again in {}", units::duration(wait.as_secs_f64().max(1.0)));
    }
}
