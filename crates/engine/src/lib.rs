//! Generation: KV blocks, scheduler, sampler, stop strings and text streams, batched decoding.
//!
//! A [`Request`] is token ids and [`SamplingParams`]; an [`Engine`] runs any number of them, [`EngineOptions::max_sequences`]
//! at a time, and reports [`Event`]s. What a request gives depends on the model, its prompt, its parameters and its seed,
//! and on nothing else: not on the other requests, the size of the steps or the number of threads.
//!
//! Parts, each usable and tested alone: [`Scheduler`] (pure: lengths in, plan out) with [`BlockAllocator`]; [`Sampler`]
//! (pure: logits in, token out); [`StopSet`] and [`TextStream`] (bytes in, text out); [`generate`] puts them together on
//! any [`StepModel`].
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
//! let requests = [Request { prompt: vec![b'a'.into(), b'b'.into()], params }];
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
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! for answer in engine.answer(&requests, &stop)? {
//!     println!("{}", answer?.text);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod answer;
mod blocks;
mod engine;
mod error;
mod generate;
mod params;
mod sampler;
mod schedule;
mod stop;
mod text;
mod vocabulary;

pub use answer::{Answer, AnswerToken, answer};
pub use blocks::BlockAllocator;
pub use engine::{Engine, EngineOptions, memory_plan};
pub use error::EngineError;
pub use generate::{Batch, Event, Finish, FinishReason, OnEvent, Request, StepModel, Totals, generate};
pub use params::SamplingParams;
pub use sampler::{History, Sampled, Sampler, TokenLogprob, draws};
pub use schedule::{Outcome, Plan, Scheduler, SchedulerLimits, Segment};
pub use stop::StopSet;
pub use text::{Piece, TextStream};
pub use vocabulary::Vocabulary;
