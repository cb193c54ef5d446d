//! Loading on demand within a memory budget, and giving up what is not used.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Loaded, ModelEntry, ModelLoader};
use crate::error::ApiError;

/// How long a model that could not be loaded is not tried again.
const RETRY_LOADING: Duration = Duration::from_secs(10);

/// All models, by name.
pub struct Registry {
    loader: Arc<dyn ModelLoader>,
    slots: Vec<Slot>,
    /// Other names, each with the place of its model.
    aliases: Vec<(String, usize)>,
    /// Most bytes of all loaded models together.
    budget: Option<u64>,
    /// Held while a model is loaded or given up: one at a time.
    loading: tokio::sync::Mutex<()>,
}

struct Slot {
    entry: ModelEntry,
    state: Mutex<State>,
}

enum State {
    Unloaded,
    Loading,
    Loaded { model: Arc<Loaded>, used: Instant },
    Failed { message: String, at: Instant },
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// On disk.
    Unloaded,
    /// On its way.
    Loading,
    /// Ready.
    Loaded,
    /// Could not be loaded.
    Failed,
}

/// A model as the administrator sees it.
#[derive(Debug, Clone)]
pub struct SlotStatus {
    /// What is known of it.
    pub entry: ModelEntry,
    /// Where it stands.
    pub state: SlotState,
    /// The model, if it is loaded.
    pub model: Option<Arc<Loaded>>,
    /// Why it could not be loaded.
    pub error: Option<String>,
}

impl Registry {
    /// Models of `loader`, none loaded yet. `aliases` are pairs of a name and the model it means; the alias `*` takes
    /// every name that there is not.
    ///
    /// # Errors
    /// No models, two of one name, an alias for none.
    pub fn new(
        loader: Arc<dyn ModelLoader>,
        aliases: &[(String, String)],
        budget: Option<u64>,
    ) -> Result<Self, String> {
        let entries = loader.entries();
        if entries.is_empty() {
            return Err("there is no model to serve".to_owned());
        }
        for (place, entry) in entries.iter().enumerate() {
            if entries[..place].iter().any(|other| other.name == entry.name) {
                return Err(format!("two models are named {:?}: rename one", entry.name));
            }
        }
        let place = |name: &str| {
            entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
                let known: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
                format!("an alias means the model {name:?}, which is not among {}", known.join(", "))
            })
        };
        let aliases = aliases
            .iter()
            .map(|(alias, name)| Ok((alias.clone(), place(name)?)))
            .collect::<Result<Vec<_>, String>>()?;
        let slots = entries.into_iter().map(|entry| Slot { entry, state: Mutex::new(State::Unloaded) }).collect();
        Ok(Self { loader, slots, aliases, budget, loading: tokio::sync::Mutex::new(()) })
    }

    /// What is known of every model.
    pub fn entries(&self) -> impl Iterator<Item = &ModelEntry> {
        self.slots.iter().map(|slot| &slot.entry)
    }

    /// Other names and the models they mean.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &ModelEntry)> {
        self.aliases.iter().map(|(alias, place)| (alias.as_str(), &self.slots[*place].entry))
    }

    /// The model that a name means; the first where none is given. The error names those that `may_know` says may be known.
    ///
    /// # Errors
    /// 404.
    pub fn entry(&self, name: Option<&str>, may_know: impl Fn(&str) -> bool) -> Result<&ModelEntry, ApiError> {
        Ok(&self.slots[self.place(name, may_know)?].entry)
    }

    fn place(&self, name: Option<&str>, may_know: impl Fn(&str) -> bool) -> Result<usize, ApiError> {
        let Some(name) = name else { return Ok(0) };
        let alias = |name: &str| self.aliases.iter().find(|(alias, _)| alias == name).map(|(_, place)| *place);
        let own = self.slots.iter().position(|slot| slot.entry.name == name);
        own.or_else(|| alias(name)).or_else(|| alias("*")).ok_or_else(|| {
            let own = self.entries().map(|entry| (entry.name.as_str(), entry));
            let known: Vec<&str> =
                own.chain(self.aliases()).filter(|(_, entry)| may_know(&entry.name)).map(|(name, _)| name).collect();
            ApiError::no_model(name, &known)
        })
    }

    /// The model that a name means, loaded. Where others must go for it, those that nobody uses go, the least recently used
    /// first.
    ///
    /// # Errors
    /// 404; 503 when it cannot be loaded, or not now.
    pub async fn get(self: &Arc<Self>, name: Option<&str>) -> Result<Arc<Loaded>, ApiError> {
        let place = self.place(name, |_| false)?;
        if let Some(model) = self.slots[place].current()? {
            return Ok(model);
        }
        // On its own: it goes on when the client that asked for it leaves.
        let registry = self.clone();
        let loading = tokio::spawn(async move { registry.load(place).await });
        loading.await.unwrap_or_else(|_| Err(ApiError::internal("loading the model broke down")))
    }

    async fn load(&self, place: usize) -> Result<Arc<Loaded>, ApiError> {
        let _turn = self.loading.lock().await;
        let slot = &self.slots[place];
        // Somebody else's turn may have loaded it.
        if let Some(model) = slot.current()? {
            return Ok(model);
        }
        self.make_room(slot.entry.bytes).await?;
        *slot.lock() = State::Loading;
        let started = Instant::now();
        let (loader, name) = (self.loader.clone(), slot.entry.name.clone());
        let result = tokio::task::spawn_blocking(move || loader.load(&name)).await;
        let result = result.unwrap_or_else(|_| Err("loading it broke down".to_owned()));
        match result {
            Ok(loaded) => {
                let model = Arc::new(loaded);
                *slot.lock() = State::Loaded { model: model.clone(), used: Instant::now() };
                let ms = started.elapsed().as_millis() as u64;
                tracing::info!(model = slot.entry.name, ms, "model loaded");
                Ok(model)
            }
            Err(message) => {
                tracing::error!(model = slot.entry.name, error = message, "model could not be loaded");
                *slot.lock() = State::Failed { message: message.clone(), at: Instant::now() };
                Err(failed(&slot.entry.name, &message))
            }
        }
    }

    async fn make_room(&self, needed: u64) -> Result<(), ApiError> {
        let Some(budget) = self.budget else { return Ok(()) };
        if needed > budget {
            let message =
                format!("the model needs {needed} bytes of memory, the server's budget for models is {budget}");
            return Err(ApiError::unavailable(message, 60));
        }
        while self.held() + needed > budget {
            let idle = (0..self.slots.len()).filter_map(|place| Some((self.slots[place].idle_since()?, place))).min();
            let Some((_, place)) = idle else {
                let message = "all loaded models are in use and there is no memory for another; try again later";
                return Err(ApiError::unavailable(message, 5));
            };
            self.unload(place).await;
        }
        Ok(())
    }

    /// Bytes of all loaded models.
    fn held(&self) -> u64 {
        let is_loaded = |slot: &&Slot| matches!(&*slot.lock(), State::Loaded { .. });
        self.slots.iter().filter(is_loaded).map(|slot| slot.entry.bytes).sum()
    }

    /// Gives up a model if nobody uses it.
    async fn unload(&self, place: usize) {
        let slot = &self.slots[place];
        let Some(mut model) = slot.take_idle() else { return };
        let thread = model.thread.take();
        drop(model);
        // Its memory is free when its thread has ended.
        let ended = tokio::task::spawn_blocking(move || thread.map(std::thread::JoinHandle::join)).await;
        if !matches!(ended, Ok(None | Some(Ok(())))) {
            tracing::error!(model = slot.entry.name, "the model's engine broke down");
        }
        tracing::info!(model = slot.entry.name, "model unloaded");
    }

    /// Gives up models that nobody has used for that long.
    pub async fn unload_idle(&self, after: Duration) {
        for place in 0..self.slots.len() {
            if self.slots[place].idle_since().is_some_and(|used| used.elapsed() >= after) {
                let _turn = self.loading.lock().await;
                if self.slots[place].idle_since().is_some_and(|used| used.elapsed() >= after) {
                    self.unload(place).await;
                }
            }
        }
    }

    /// Notes that a model's engine has ended by itself: the next request loads it anew.
    pub fn forget(&self, model: &Arc<Loaded>) {
        for slot in &self.slots {
            let mut state = slot.lock();
            if matches!(&*state, State::Loaded { model: current, .. } if Arc::ptr_eq(current, model)) {
                *state = State::Unloaded;
            }
        }
    }

    /// Where every model stands.
    pub fn status(&self) -> Vec<SlotStatus> {
        let of = |slot: &Slot| {
            let (state, model, error) = match &*slot.lock() {
                State::Unloaded => (SlotState::Unloaded, None, None),
                State::Loading => (SlotState::Loading, None, None),
                State::Loaded { model, .. } => (SlotState::Loaded, Some(model.clone()), None),
                State::Failed { message, .. } => (SlotState::Failed, None, Some(message.clone())),
            };
            SlotStatus { entry: slot.entry.clone(), state, model, error }
        };
        self.slots.iter().map(of).collect()
    }

    /// Whether any model is loaded.
    pub fn is_ready(&self) -> bool {
        self.slots.iter().any(|slot| matches!(&*slot.lock(), State::Loaded { .. }))
    }
}

fn failed(name: &str, message: &str) -> ApiError {
    ApiError::unavailable(format!("the model {name:?} cannot be loaded: {message}"), RETRY_LOADING.as_secs())
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // What is guarded is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model if it is loaded, noting that it is used.
    fn current(&self) -> Result<Option<Arc<Loaded>>, ApiError> {
        match &mut *self.lock() {
            State::Loaded { model, used } => {
                *used = Instant::now();
                Ok(Some(model.clone()))
            }
            State::Failed { message, at } if at.elapsed() < RETRY_LOADING => Err(failed(&self.entry.name, message)),
            State::Unloaded | State::Loading | State::Failed { .. } => Ok(None),
        }
    }

    /// When it was last used, if it is loaded and nobody uses it now.
    fn idle_since(&self) -> Option<Instant> {
        match &*self.lock() {
            State::Loaded { model, used } if Arc::strong_count(model) == 1 => Some(*used),
            _ => None,
        }
    }

    /// The model, if it is loaded and nobody uses it. References are handed out under the lock only.
    fn take_idle(&self) -> Option<Loaded> {
        let mut state = self.lock();
        let old = std::mem::replace(&mut *state, State::Unloaded);
        match old {
            State::Loaded { model, used } => match Arc::try_unwrap(model) {
                Ok(model) => Some(model),
                Err(model) => {
                    *state = State::Loaded { model, used };
                    None
                }
            },
            other => {
                *state = other;
                None
            }
        }
    }
}
