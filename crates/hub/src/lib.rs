//! Models from a hub: listing, download with resume and checksums, and the cache that programs of the hub share.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use verve_hub::{Hub, Settings, Target, resolve};
//!
//! let settings = Settings::from_env()?;
//! let cancel = AtomicBool::new(false);
//! let hub = Hub::new(&settings, &cancel)?;
//! let plan = hub.plan(&"HuggingFaceTB/SmolLM2-135M-Instruct".parse()?, &[], &Target::Cache, &mut |_| {})?;
//! println!("{} files, {} bytes", plan.choice.files.len(), plan.bytes);
//! let folder = hub.download(&plan, &Target::Cache, &mut |_| {})?;
//! assert_eq!(resolve("SmolLM2-135M-Instruct", &settings)?, folder);
//! # Ok::<(), verve_hub::HubError>(())
//! ```
#![forbid(unsafe_code)]

mod cache;
mod choose;
mod digest;
mod download;
mod error;
mod http;
mod listing;
mod name;
mod settings;

pub use cache::resolve;
pub use choose::{Choice, choose};
pub use download::{Event, Hub, OnEvent, Plan, Target};
pub use error::HubError;
pub use listing::{Checksum, Listing, RemoteFile};
pub use name::{DEFAULT_REVISION, RepoId};
pub use settings::{Patience, Settings};
