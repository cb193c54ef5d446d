//! `verve serve`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use verve_access::KeyStore;
use verve_moderate::{Chain, ModerationConfig};
use verve_server::{App, Registry, ServerOptions, TlsFiles};

use self::loader::{Loader, Sizes};
use self::settings::Merged;
use crate::args::{MachineArgs, ServeArgs, ServeSettings};
use crate::{output, units};

mod find;
mod loader;
mod settings;

/// Files that a process may have open; each connection is one.
const OPEN_FILES: u64 = 1 << 16;

pub fn run(machine: &MachineArgs, args: ServeArgs) -> Result<()> {
    let started = Instant::now();
    let merged = Merged::new(&args)?;
    if args.print_config {
        return output::piece(&merged.table());
    }
    let settings = merged.settings()?;
    log(&settings)?;
    // Best effort: with fewer, connections beyond them wait.
    let _ = rlimit::increase_nofile_limit(OPEN_FILES);
    let options = options(&settings)?;
    let keys = settings.keys.as_deref().map(KeyStore::open).transpose()?;
    let loader = Loader::new(machine, &settings, Sizes::of(&settings)?)?;
    let budget = settings.memory.as_deref().map(|text| size("memory", text)).transpose()?;
    let aliases = settings.alias.iter().flatten().map(|alias| pair(alias)).collect::<Result<Vec<_>>>()?;
    let budget = budget.map_or_else(|| crate::device::available_memory(machine), Ok)?;
    let models = Registry::new(Arc::new(loader), &aliases, Some(budget)).map_err(anyhow::Error::msg)?;
    for entry in models.entries() {
        eprintln!("model {}: {} of memory, context {} tokens", entry.name, units::bytes(entry.bytes), entry.n_ctx);
    }
    let needs_key = keys.is_some() || options.api_key.is_some();
    let app = App::new(options, models, keys, moderation(&settings, args.config.as_deref())?);
    verve_server::run(app, |server| {
        let ready = started.elapsed().as_secs_f64() * 1e3;
        let access = if needs_key { "with a key" } else { "without a key, from this machine" };
        eprintln!("ready after {ready:.0} ms, {access}: {} (playground), {0}/v1 (API)", server.url());
    })?;
    Ok(())
}

/// The filters of the configuration file; paths in it are seen from its folder.
fn moderation(settings: &ServeSettings, file: Option<&Path>) -> Result<Option<Chain>> {
    let Some(table) = &settings.moderation else { return Ok(None) };
    let config: ModerationConfig = table.clone().try_into().context("[serve.moderation]")?;
    let folder = file.and_then(Path::parent).unwrap_or(Path::new("."));
    Ok(Some(Chain::from_config(&config, folder)?))
}

fn log(settings: &ServeSettings) -> Result<()> {
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    match settings.log.as_deref().unwrap_or("text") {
        "text" => logs.with_ansi(false).compact().init(),
        "json" => logs.json().flatten_event(true).init(),
        other => bail!("log is {other:?}, must be text or json"),
    }
    Ok(())
}

fn options(settings: &ServeSettings) -> Result<ServerOptions> {
    let standard = ServerOptions::default();
    let seconds = |value: Option<u64>, standard| value.map_or(standard, Duration::from_secs);
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate: certificate.clone(), key: key.clone() }),
        (None, None) => None,
        (Some(_), None) => bail!("--tls-cert needs --tls-key"),
        (None, Some(_)) => bail!("--tls-key needs --tls-cert"),
    };
    if settings.api_key.as_deref().is_some_and(|key| key.trim().len() < 16) {
        bail!("the API key has fewer than 16 characters: give a longer one, or use verve keys add");
    }
    Ok(ServerOptions {
        host: settings.host.clone().unwrap_or(standard.host),
        port: settings.port.unwrap_or(standard.port),
        tls,
        allow_anonymous: settings.allow_anonymous.unwrap_or(false),
        api_key: settings.api_key.clone(),
        cors_origins: settings.cors_origin.clone().unwrap_or_default(),
        max_body_bytes: match &settings.max_body {
            Some(text) => usize::try_from(size("max_body", text)?)?,
            None => standard.max_body_bytes,
        },
        max_connections: settings.max_connections.unwrap_or(standard.max_connections),
        header_timeout: seconds(settings.header_timeout, standard.header_timeout),
        body_timeout: seconds(settings.body_timeout, standard.body_timeout),
        write_timeout: seconds(settings.write_timeout, standard.write_timeout),
        request_timeout: seconds(settings.request_timeout, standard.request_timeout),
        drain_timeout: seconds(settings.drain_timeout, standard.drain_timeout),
        idle_unload: settings.idle_unload.filter(|&seconds| seconds > 0).map(Duration::from_secs),
        log_text: settings.log_text.unwrap_or(false),
        stored_responses: settings.stored_responses.unwrap_or(0),
    })
}

/// A number of bytes with a unit.
fn size(name: &str, text: &str) -> Result<u64> {
    units::size(text).map_err(|problem| anyhow::anyhow!("{name} is {text:?}: {problem}"))
}

/// `NAME=MODEL`.
fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, model)) if !name.is_empty() && !model.is_empty() => Ok((name.to_owned(), model.to_owned())),
        _ => bail!("alias {text:?}: give NAME=MODEL"),
    }
}
