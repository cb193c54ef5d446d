//! An engine that answers requests as they come, on a thread of its own.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::{Core, Totals};
use crate::error::EngineError;
use crate::model::StepModel;
use crate::request::{AnswerToken, Event, Finish, Request};

/// An [`Event`] that can be sent to another thread.
#[derive(Debug)]
pub enum OwnedEvent {
    /// See [`Event::Prompt`].
    Prompt(Vec<AnswerToken>),
    /// See [`Event::Embedding`].
    Embedding(Vec<f32>),
    /// See [`Event::Token`].
    Token {
        /// Which of the answers.
        choice: usize,
        /// The token.
        token: AnswerToken,
        /// Text that became certain.
        text: String,
    },
    /// See [`Event::Finished`].
    Finished {
        /// Which of the answers.
        choice: usize,
        /// Text that was held back until now.
        text: String,
        /// Why and how long.
        finish: Finish,
    },
    /// See [`Event::Failed`].
    Failed(EngineError),
}

impl OwnedEvent {
    fn of(event: Event<'_>) -> Self {
        match event {
            Event::Prompt { tokens, .. } => Self::Prompt(tokens.to_vec()),
            Event::Embedding { values, .. } => Self::Embedding(values.to_vec()),
            Event::Token { choice, id, text, logprob, alternatives, .. } => {
                let token = AnswerToken { id, logprob, alternatives: alternatives.to_vec() };
                Self::Token { choice, token, text: text.to_owned() }
            }
            Event::Finished { choice, text, finish, .. } => Self::Finished { choice, text: text.to_owned(), finish },
            Event::Failed { error, .. } => Self::Failed(error),
        }
    }
}

/// Receives a request's events, on the engine's thread: it must not wait for anything. `Break` ends the request. It is
/// dropped after the last event.
pub type Sink = Box<dyn FnMut(OwnedEvent) -> ControlFlow<()> + Send>;

enum Command {
    Submit { ticket: u64, request: Box<Request>, sink: Sink },
    Cancel { ticket: u64 },
    ForgetPrefixes,
}

/// What an engine is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Work done since the start.
    pub totals: Totals,
    /// Requests waiting or being answered.
    pub n_requests: usize,
    /// Sequences that wait for a place.
    pub n_waiting: usize,
    /// Sequences that have one.
    pub n_running: usize,
    /// Blocks of the KV cache.
    pub n_blocks: usize,
    /// Blocks that are free or can be freed at once.
    pub n_available: usize,
    /// Of those, blocks that hold the beginnings of finished requests.
    pub n_idle: usize,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests submitted and not over.
    n_requests: AtomicUsize,
    next_ticket: Mutex<u64>,
    load: Mutex<Load>,
    /// Why the engine has ended.
    end: Mutex<Option<String>>,
}

/// A way to an engine on another thread; cheap to clone. The engine ends when all handles are gone and what was submitted
/// is answered.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    limit: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is guarded is a plain value, whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EngineHandle {
    /// Submits a request. `sink` gets its events, as [`Event`] describes. Returns a ticket to cancel it with.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`], [`EngineError::Stopped`]. What is wrong with the request itself is its event.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<u64, EngineError> {
        let taken = self.shared.n_requests.fetch_add(1, Ordering::AcqRel);
        if taken >= self.limit {
            self.shared.n_requests.fetch_sub(1, Ordering::AcqRel);
            return Err(EngineError::QueueFull { limit: self.limit });
        }
        let ticket = {
            let mut next = lock(&self.shared.next_ticket);
            *next += 1;
            *next
        };
        let command = Command::Submit { ticket, request: Box::new(request), sink };
        self.commands.send(command).map_err(|_| {
            self.shared.n_requests.fetch_sub(1, Ordering::AcqRel);
            self.stopped()
        })?;
        Ok(ticket)
    }

    /// Ends a request before the next step: its answers finish as they are. Does nothing when it is over.
    pub fn cancel(&self, ticket: u64) {
        // An engine that has ended has nothing to cancel.
        let _ = self.commands.send(Command::Cancel { ticket });
    }

    /// Forgets what finished requests left in the cache.
    pub fn forget_prefixes(&self) {
        let _ = self.commands.send(Command::ForgetPrefixes);
    }

    /// What the engine was doing after its last step.
    pub fn load(&self) -> Load {
        Load { n_requests: self.shared.n_requests.load(Ordering::Acquire), ..*lock(&self.shared.load) }
    }

    fn stopped(&self) -> EngineError {
        let reason = lock(&self.shared.end).clone().unwrap_or_else(|| "it was ended".to_owned());
        EngineError::Stopped { reason }
    }
}

/// A way to an engine that is not running yet, for at most `limit` requests at once, and what [`serve`] needs to run it.
pub fn engine_channel(limit: usize) -> (EngineHandle, Requests) {
    let (commands, received) = channel();
    let shared = Arc::new(Shared::default());
    (EngineHandle { commands, shared: shared.clone(), limit }, Requests { received, shared })
}

/// The other end of an [`EngineHandle`].
pub struct Requests {
    received: Receiver<Command>,
    shared: Arc<Shared>,
}

struct Open {
    ticket: u64,
    sink: Sink,
}

/// Answers requests until all handles are gone and everything is answered. Sleeps while there is nothing to do.
///
/// # Errors
/// A failed machine; every open request gets it as its event.
pub fn serve<M: StepModel>(core: &mut Core<'_, M>, requests: &Requests) -> Result<(), EngineError> {
    let mut open = OpenRequests::default();
    let shared = &requests.shared;
    let result = loop {
        // Everything that has come; where there is nothing to do, whatever comes next.
        let is_over = loop {
            let command = if core.is_idle() {
                requests.received.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                requests.received.try_recv()
            };
            match command {
                Ok(command) => take(core, command, &mut open, shared),
                Err(TryRecvError::Empty) => break false,
                Err(TryRecvError::Disconnected) => break core.is_idle(),
            }
        };
        if is_over {
            break Ok(());
        }
        let result = core.step(&mut |event| deliver(event, &mut open));
        close_ended(core, &mut open, shared);
        let scheduler = core.scheduler();
        *lock(&shared.load) = Load {
            totals: core.totals(),
            n_requests: open.sinks.len(),
            n_waiting: scheduler.n_waiting(),
            n_running: scheduler.n_running(),
            n_blocks: scheduler.blocks().n_blocks(),
            n_available: scheduler.blocks().n_available(),
            n_idle: scheduler.blocks().n_idle(),
        };
        if result.is_err() {
            break result;
        }
    };
    if let Err(error) = &result {
        let reason = error.to_string();
        *lock(&shared.end) = Some(reason.clone());
        let waiting = requests.received.try_iter().filter_map(|command| match command {
            Command::Submit { sink, .. } => Some(sink),
            Command::Cancel { .. } | Command::ForgetPrefixes => None,
        });
        for mut sink in open.sinks.into_values().map(|open| open.sink).chain(waiting) {
            // The request is over, whatever is answered.
            let _ = sink(OwnedEvent::Failed(EngineError::Stopped { reason: reason.clone() }));
            shared.n_requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
    result
}

/// Requests that are not over, by the core's names for them.
#[derive(Default)]
struct OpenRequests {
    sinks: HashMap<usize, Open>,
    /// Ends of answers that are not passed on yet: where one is the end of its request, the request's place is free before
    /// anybody hears of it, so that whoever waited for it is not turned away.
    ends: Vec<(usize, OwnedEvent)>,
}

fn deliver(event: Event<'_>, open: &mut OpenRequests) -> ControlFlow<()> {
    let request = event.request();
    if matches!(event, Event::Finished { .. } | Event::Failed { .. }) {
        open.ends.push((request, OwnedEvent::of(event)));
        return ControlFlow::Continue(());
    }
    match open.sinks.get_mut(&request) {
        Some(open) => (open.sink)(OwnedEvent::of(event)),
        None => ControlFlow::Break(()),
    }
}

/// Frees the places of requests that are over and passes the ends of answers on. A request whose caller wants no more of it
/// is ended, which brings further ends.
fn close_ended<M: StepModel>(core: &mut Core<'_, M>, open: &mut OpenRequests, shared: &Shared) {
    let mut n_freed = 0;
    loop {
        let n_over = open.sinks.keys().filter(|&&name| !core.is_open(name)).count();
        shared.n_requests.fetch_sub(n_over - n_freed, Ordering::AcqRel);
        n_freed = n_over;
        if open.ends.is_empty() {
            break;
        }
        for (name, event) in std::mem::take(&mut open.ends) {
            let Some(Open { sink, .. }) = open.sinks.get_mut(&name) else { continue };
            if sink(event).is_break() && core.is_open(name) {
                core.cancel(name, &mut |event| deliver(event, open));
            }
        }
    }
    open.sinks.retain(|&name, _| core.is_open(name));
}

fn take<M: StepModel>(core: &mut Core<'_, M>, command: Command, open: &mut OpenRequests, shared: &Shared) {
    match command {
        Command::Submit { ticket, request, mut sink } => match core.submit(*request) {
            Ok(name) => {
                open.sinks.insert(name, Open { ticket, sink });
            }
            Err(error) => {
                // The place is free before the news is out.
                shared.n_requests.fetch_sub(1, Ordering::AcqRel);
                let _ = sink(OwnedEvent::Failed(error));
            }
        },
        Command::Cancel { ticket } => {
            let name = open.sinks.iter().find(|(_, open)| open.ticket == ticket).map(|(&name, _)| name);
            if let Some(name) = name {
                core.cancel(name, &mut |event| deliver(event, open));
                close_ended(core, open, shared);
            }
        }
        Command::ForgetPrefixes => core.forget_prefixes(),
    }
}
