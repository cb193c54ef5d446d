//! Who may use a server, how much, and how much they did.
//!
//! [`KeyStore`] holds API keys and their usage in one file that several processes share: a running server and
//! `verve keys`. The server looks keys up in memory; [`KeyStore::refresh`] brings in what others changed and
//! [`KeyStore::flush`] writes the usage counted since. [`Limiter`] holds requests to a key's [`Limits`].
//!
//! The crate knows no HTTP and starts no threads. Calls that touch the disk say so; a server makes them on a thread that
//! may block.
//!
//! ```
//! use verve_access::{KeyStore, Limiter, NewKey, Now, Scope};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("keys.redb");
//! let store = KeyStore::open_or_create(&path)?;
//! let (key, secret) = store.add(NewKey::named("web shop"), Now::read().unix)?;
//!
//! let now = Now::read();
//! let found = store.find(secret.reveal(), now.unix).expect("just added");
//! assert!(found.id == key.id && found.allows(Scope::Generate) && !found.allows(Scope::Admin));
//!
//! let limiter = Limiter::new();
//! let reservation = limiter.admit(&found, 500, now).expect("no limits set");
//! // ... answer ...
//! reservation.settle(123, Now::read());
//! store.record(&found.id, 1, 100, 23, Now::read().unix);
//! store.flush()?;
//! # Ok::<(), verve_access::AccessError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod file;
mod key;
mod limiter;
mod secret;
mod store;
mod time;
mod usage;
mod window;

pub use error::{AccessError, Refused};
pub use key::{Key, Limits, NewKey, Scope};
pub use limiter::{Exceeded, Limited, Limiter, Quota, RateState, Reservation};
pub use secret::Secret;
pub use store::{KeyStore, Refreshed};
pub use time::{Now, UnixMillis, duration_text};
pub use usage::{KeyUsage, Usage};
