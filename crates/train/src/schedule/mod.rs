//! Batch sizes and learning rates as pure functions of the tokens seen.

mod batch;
mod learning_rate;

pub use batch::BatchSchedule;
pub use learning_rate::{DecayCurve, LrSchedule, LrShape};

#[cfg(test)]
mod tests;
