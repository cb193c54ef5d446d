//! Who calls, and whether they may.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;
use verve_access::{
    AccessError, Exceeded, Key, KeyStore, Limiter, Now, Quota, RateState, Refreshed, Reservation, Scope, duration_text,
};

use crate::app::App;
use crate::error::ApiError;
use crate::models::ModelEntry;

/// Keys and limits.
pub struct Access {
    store: Option<KeyStore>,
    limiter: Limiter,
    /// Hash of the one key of the configuration.
    static_key: Option<blake3::Hash>,
}

/// Who made a request.
#[derive(Clone)]
pub struct Caller {
    /// The request's name.
    pub request_id: Arc<str>,
    who: Who,
    /// Tokens held for the request.
    held: Arc<Mutex<Option<Reservation>>>,
}

#[derive(Clone)]
enum Who {
    /// No keys are needed.
    Anyone,
    /// The key of the configuration, which may do everything.
    Operator,
    /// A key of the store.
    Key(Arc<Key>),
}

impl Access {
    /// Keys of a store, the key of the configuration, both, or none: then anyone may do everything.
    pub fn new(store: Option<KeyStore>, static_key: Option<&str>) -> Self {
        let access =
            Self { store, limiter: Limiter::new(), static_key: static_key.map(|key| blake3::hash(key.as_bytes())) };
        access.count_stored_usage();
        access
    }

    /// Reads what other processes have written of keys and usage.
    ///
    /// # Errors
    /// A file that cannot be read; what is known stays in force.
    pub fn refresh(&self) -> Result<(), AccessError> {
        let Some(store) = &self.store else { return Ok(()) };
        if store.refresh()? != Refreshed::Nothing {
            self.count_stored_usage();
        }
        Ok(())
    }

    /// Sees to it that a day's limits hold over a restart, and for all servers on one file together.
    fn count_stored_usage(&self) {
        let now = Now::read();
        for (id, usage) in self.store.iter().flat_map(|store| store.usage(now.unix)) {
            self.limiter.raise_day(&id, usage.today, now);
        }
    }

    /// Whether callers must show a key.
    pub fn needs_key(&self) -> bool {
        self.store.is_some() || self.static_key.is_some()
    }

    /// The key store.
    pub fn store(&self) -> Option<&KeyStore> {
        self.store.as_ref()
    }

    /// Who calls.
    ///
    /// # Errors
    /// 401.
    pub fn caller(&self, headers: &HeaderMap, request_id: Arc<str>) -> Result<Caller, ApiError> {
        let caller = |who| Caller { request_id, who, held: Arc::default() };
        if !self.needs_key() {
            return Ok(caller(Who::Anyone));
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(ApiError::unauthorized(
                "You did not provide an API key. Send it in the header Authorization: Bearer YOUR_KEY.",
            ));
        };
        let secret = value.to_str().ok().and_then(|value| {
            let (scheme, secret) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
        });
        let Some(secret) = secret else {
            return Err(ApiError::unauthorized("The header Authorization must be: Bearer YOUR_KEY."));
        };
        if let Some(expected) = &self.static_key {
            let found = blake3::hash(secret.as_bytes());
            if bool::from(found.as_bytes().ct_eq(expected.as_bytes())) {
                return Ok(caller(Who::Operator));
            }
        }
        let Some(store) = &self.store else { return Err(unknown_key()) };
        match store.find(secret, Now::read().unix) {
            Ok(key) => Ok(caller(Who::Key(key))),
            Err(verve_access::Refused::Unknown) => Err(unknown_key()),
            Err(refused) => Err(ApiError::unauthorized(format!("{refused}."))),
        }
    }
}

fn unknown_key() -> ApiError {
    ApiError::unauthorized("Incorrect API key provided. Ask the operator of this server for one.")
}

impl Caller {
    /// Name of the key, for logs and metrics.
    pub fn key_name(&self) -> &str {
        match &self.who {
            Who::Anyone => "anonymous",
            Who::Operator => "operator",
            Who::Key(key) => &key.name,
        }
    }

    /// Identifies the key: callers share the machine evenly, and see no other's stored responses.
    pub fn client(&self) -> u64 {
        match &self.who {
            Who::Anyone => 0,
            Who::Operator => 1,
            Who::Key(key) => {
                let hash = blake3::hash(key.id.as_bytes());
                u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
            }
        }
    }

    /// Whether the key may do this.
    ///
    /// # Errors
    /// 403.
    pub fn may(&self, scope: Scope) -> Result<(), ApiError> {
        match &self.who {
            Who::Key(key) if !key.allows(scope) => Err(ApiError::forbidden(format!(
                "This API key has no scope {:?}; ask the operator for one that has.",
                scope.name()
            ))),
            _ => Ok(()),
        }
    }

    /// The entry of a model that the key may use.
    ///
    /// # Errors
    /// 404, which names no model that the key may not use; 403.
    pub fn entry<'a>(&self, app: &'a App, name: Option<&str>) -> Result<&'a ModelEntry, ApiError> {
        let entry = app.models.entry(name, |model| self.may_use(model).is_ok())?;
        self.may_use(&entry.name)?;
        Ok(entry)
    }

    /// Whether the key may use a model.
    ///
    /// # Errors
    /// 403.
    pub fn may_use(&self, model: &str) -> Result<(), ApiError> {
        match &self.who {
            Who::Key(key) if !key.allows_model(model) => {
                Err(ApiError::forbidden(format!("This API key may not use the model {model:?}.")).about("model"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the key is still in force; it may have been taken back since the request began.
    ///
    /// # Errors
    /// 401.
    pub fn still_valid(&self, app: &App) -> Result<(), ApiError> {
        if let (Who::Key(key), Some(store)) = (&self.who, &app.access.store) {
            store
                .check(&key.id, Now::read().unix)
                .map_err(|refused| ApiError::unauthorized(format!("{refused}; the answer was ended.")))?;
        }
        Ok(())
    }

    /// Counts the request against the key's limits and holds `tokens` for it.
    ///
    /// # Errors
    /// 429.
    pub fn admit(&self, app: &App, tokens: usize) -> Result<(), ApiError> {
        let Who::Key(key) = &self.who else { return Ok(()) };
        match app.access.limiter.admit(key, tokens as u64, Now::read()) {
            Ok(reservation) => {
                *self.held() = Some(reservation);
                Ok(())
            }
            Err(exceeded) => Err(over_limit(&exceeded)),
        }
    }

    /// What the request really took.
    pub fn settle(&self, app: &App, prompt_tokens: usize, generated_tokens: usize) {
        let Who::Key(key) = &self.who else { return };
        let now = Now::read();
        if let Some(reservation) = self.held().take() {
            reservation.settle((prompt_tokens + generated_tokens) as u64, now);
        }
        if let Some(store) = &app.access.store {
            store.record(&key.id, 1, prompt_tokens as u64, generated_tokens as u64, now.unix);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Reservation>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes where the key stands with its limits, as clients expect it.
    pub fn write_rate_limits(&self, app: &App, headers: &mut HeaderMap) {
        let Who::Key(key) = &self.who else { return };
        let RateState { requests, tokens } = app.access.limiter.state(key, Now::read());
        let mut put = |names: [&'static str; 3], quota: Option<Quota>| {
            let Some(quota) = quota else { return };
            headers.insert(names[0], HeaderValue::from(quota.limit));
            headers.insert(names[1], HeaderValue::from(quota.remaining));
            if let Ok(reset) = HeaderValue::from_str(&duration_text(quota.reset)) {
                headers.insert(names[2], reset);
            }
        };
        put(["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"], requests);
        put(["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"], tokens);
    }
}

fn over_limit(exceeded: &Exceeded) -> ApiError {
    let Some(wait) = exceeded.retry_after else {
        return ApiError::client(
            axum::http::StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            exceeded.to_string(),
        );
    };
    let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
    let message = format!("Rate limit reached: {exceeded}");
    match exceeded.what.is_daily() {
        true => ApiError::too_many("insufficient_quota", "insufficient_quota", message, seconds),
        false => ApiError::too_many(exceeded.what.unit(), "rate_limit_exceeded", message, seconds),
    }
}
