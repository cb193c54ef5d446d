//! Generation: KV blocks, scheduler, sampler, stop strings and text streams, batched decoding.
//!
//! A [`Request`] is token ids and [`SamplingParams`]; an [`Engine`] runs any number of them, [`EngineOptions::max_sequences`]
//! at a time, and reports [`Event`]s. What a request gives depends on the model, its prompt, its parameters and its seed,
//! and on nothing else: not on the other requests, the size of the steps or the number of threads.
//!
//! Parts, each usable and tested alone: [`Scheduler`] (pure: lengths in, plan out) with [`BlockAllocator`]; [`Sampler`]
//! (pure: logits in, token out); [`StopSet`] and [`TextStream`] (bytes in, text out); [`generate`] puts them together on
//! any [`StepModel`].
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
