//! When and from what checkpoints are written: from a copy in host memory, by a thread of its own, while training goes on;
//! or between two steps.

use std::sync::Arc;
use std::thread::JoinHandle;

use verve_model::Params;
use verve_ops::reference::{HostBuf, Reference};
use verve_ops::{Backend, Element};

use super::Position;
use super::save::{Identity, Tensors, Written, save};
use crate::config::WriteMode;
use crate::error::{Result, TrainError};
use crate::state::{State, Table};

/// A state in host memory. Made once and used for every checkpoint.
struct Snapshot<B: Backend> {
    exact: Exact<B>,
    m: Params<HostBuf<B::Acc>>,
    v: Params<HostBuf<B::Acc>>,
}

/// The exact weights.
enum Exact<B: Backend> {
    Weights(Params<HostBuf<B::Elem>>),
    Master(Params<HostBuf<B::Acc>>),
}

impl<B: Backend> Snapshot<B> {
    fn new(table: &Table, state: &State<B>) -> Result<Self> {
        let host = Reference::<f32>::new();
        let params = &table.params;
        Ok(Self {
            exact: match state.master {
                Some(_) => Exact::Master(params.alloc::<_, B::Acc>(&host)?),
                None => Exact::Weights(params.alloc::<_, B::Elem>(&host)?),
            },
            m: params.alloc::<_, B::Acc>(&host)?,
            v: params.alloc::<_, B::Acc>(&host)?,
        })
    }

    fn take(&mut self, backend: &B, state: &State<B>) -> Result<()> {
        match (&mut self.exact, &state.master) {
            (Exact::Master(host), Some(master)) => download(backend, master, host)?,
            (Exact::Weights(host), _) => download(backend, &state.weights, host)?,
            (Exact::Master(_), None) => {}
        }
        download(backend, &state.m, &mut self.m)?;
        download(backend, &state.v, &mut self.v)
    }

    fn save(&self, identity: &Identity, position: Position) -> Result<Written> {
        let (backend, m, v) = (&Reference::<f32>::new(), &self.m, &self.v);
        match &self.exact {
            Exact::Weights(weights) => save(identity, position, &Tensors { backend, weights, m, v }),
            Exact::Master(weights) => save(identity, position, &Tensors { backend, weights, m, v }),
        }
    }
}

fn download<B: Backend, T: Element>(
    backend: &B,
    params: &Params<B::Buf<T>>,
    host: &mut Params<HostBuf<T>>,
) -> Result<()> {
    for (buffer, host) in params.iter().zip(host.iter_mut()) {
        backend.download(buffer, host.as_mut_slice())?;
    }
    Ok(())
}

/// A checkpoint that was tried.
pub(crate) type Tried = (u64, Result<Written>);

type Thread<B> = JoinHandle<(Snapshot<B>, Result<Written>)>;

/// Writes the checkpoints of a run, at most one at a time.
pub(crate) struct Writer<B: Backend> {
    identity: Arc<Identity>,
    /// The copy, when it is not being written; `None` for good when writing holds up training.
    snapshot: Option<Snapshot<B>>,
    in_flight: Option<(u64, Thread<B>)>,
}

impl<B: Backend> Writer<B> {
    /// Allocates the copy if there is to be one.
    pub fn new(identity: Identity, mode: WriteMode, table: &Table, state: &State<B>) -> Result<Self> {
        let snapshot = match mode {
            WriteMode::Background => Some(Snapshot::new(table, state)?),
            WriteMode::Blocking => None,
        };
        Ok(Self { identity: Arc::new(identity), snapshot, in_flight: None })
    }

    /// True while a checkpoint is being written.
    pub fn is_busy(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|(_, thread)| !thread.is_finished())
    }

    /// What has become of the checkpoint in flight, once: `None` while it is being written, or if there is none.
    pub fn poll(&mut self) -> Option<Tried> {
        if self.is_busy() { None } else { self.wait() }
    }

    /// Waits for the checkpoint in flight.
    pub fn wait(&mut self) -> Option<Tried> {
        let (step, thread) = self.in_flight.take()?;
        match thread.join() {
            Ok((snapshot, result)) => {
                self.snapshot = Some(snapshot);
                Some((step, result))
            }
            // A bug in the writer is a bug here.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Begins to write the state as it is now; [`Writer::wait`] must have returned before. Answers at once with the result
    /// if writing holds up training, or could not begin.
    pub fn begin(&mut self, backend: &B, state: &State<B>, position: Position) -> Result<Option<Tried>> {
        let Some(mut snapshot) = self.snapshot.take() else {
            let (m, v) = (&state.m, &state.v);
            let result = match &state.master {
                Some(weights) => save(&self.identity, position, &Tensors { backend, weights, m, v }),
                None => save(&self.identity, position, &Tensors { backend, weights: &state.weights, m, v }),
            };
            return Ok(Some((position.step, result)));
        };
        snapshot.take(backend, state)?;
        let identity = Arc::clone(&self.identity);
        let spawned = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            let result = snapshot.save(&identity, position);
            (snapshot, result)
        });
        match spawned {
            Ok(thread) => {
                self.in_flight = Some((position.step, thread));
                Ok(None)
            }
            // The copy went with the thread; from here on training is held up.
            Err(e) => {
                let error = TrainError::io(&self.identity.checkpoints, "start a thread to write to", e);
                Ok(Some((position.step, Err(error))))
            }
        }
    }
}
