//! Generation: many requests at once, each with the bytes that it would get alone.
//!
//! A [`Request`] is token ids, [`SamplingParams`] and what else is wanted: several answers, log-probabilities of the prompt, a
//! vector, a form that answers must have ([`Constraint`]). An [`Engine`] runs any number of them,
//! [`EngineOptions::max_sequences`] at a time, and reports [`Event`]s. What a request gives depends on the model, its prompt, its
//! parameters and its seed, and on nothing else: not on the other requests, what is found in the cache, guesses, the size of the
//! steps or the number of threads.
//!
//! Parts, each usable and tested alone: [`Scheduler`] (pure: tokens in, plan out) with [`BlockCache`]; [`Sampler`]
//! (pure: logits in, token out); [`StopSet`] and [`TextStream`] (bytes in, text out); [`Drafter`]s; [`Core`] puts them together on
//! any [`StepModel`]. [`serve`] runs a core on a thread of its own, [`EngineHandle`] is the way to it.
//!
//! ```
//! # use std::{ops::ControlFlow, sync::atomic::AtomicBool};
//! # use verve_engine::{Engine, EngineOptions, Event, Request, SamplingParams, Vocabulary, memory_plan};
//! # let backend = verve_ops::reference::Reference::<f32>::new();
//! # let config = verve_model::ModelConfig::preset("nano", Some(256))?;
//! # let weights = verve_model::init::<_, f32>(&backend, &verve_model::layout(&config), 1)?;
//! # let network = verve_model::Network { backend: &backend, config: &config, weights: &weights };
//! # let vocabulary = Vocabulary::from_bytes((0..=255u8).map(|byte| [byte]));
//! let params = SamplingParams { temperature: 0.8, top_p: 0.95, seed: 7, max_tokens: 20, ..SamplingParams::default() };
//! let requests = [Request { prompt: vec![b'a'.into(), b'b'.into()], params, ..Request::default() }];
//! let options = EngineOptions::default().for_requests(&requests, &config);
//! println!("{} bytes", memory_plan(&backend, &config, None, &options)?.total());
//! let mut engine = Engine::from_network(network, &vocabulary, &options)?;
//! let stop = AtomicBool::new(false);
//! engine.generate(&requests, &stop, &mut |event| {
//!     print!("{}", event.text());
//!     match event {
//!         Event::Token { .. } => {}
//!         Event::Finished { finish, .. } => println!("\n{}: {} tokens", finish.reason, finish.n_generated),
//!         Event::Failed { error, .. } => println!("{error}"),
//!         Event::Prompt { .. } | Event::Embedding { .. } => {}
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! for answers in engine.answer(&requests, &stop)? {
//!     println!("{}", answers?.choices[0].text);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod beam;
mod blocks;
mod constraint;
mod core;
mod draft;
mod engine;
mod error;
mod generate;
mod group;
mod model;
mod params;
mod request;
mod sampler;
mod schedule;
mod stop;
mod text;
mod thread;
mod vocabulary;

pub use beam::{BeamSearch, EarlyStopping};
pub use blocks::BlockCache;
pub use constraint::{Constraint, ConstraintSource};
pub use core::{Core, CoreOptions, Totals};
pub use draft::{DraftModel, Drafter, PromptLookup};
pub use engine::{BackendModel, Engine, EngineOptions, memory_plan};
pub use error::EngineError;
pub use generate::{Answer, Answers, Batch, Collected, answer, generate};
pub use model::StepModel;
pub use params::SamplingParams;
pub use request::{AnswerToken, Event, Finish, FinishReason, MAX_CHOICES, OnEvent, Pooling, Request};
pub use sampler::{History, Sampled, Sampler, TokenLogprob, draws};
pub use schedule::{Guess, Outcome, Outputs, Plan, Scheduler, SchedulerLimits, Segment, Submission};
pub use stop::StopSet;
pub use text::{Piece, TextStream};
pub use thread::{EngineHandle, Load, OwnedEvent, Requests, Sink, engine_channel, serve};
pub use vocabulary::Vocabulary;
