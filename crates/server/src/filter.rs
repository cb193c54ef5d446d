//! Output filters over streamed answers.

use verve_engine::Request;

use crate::app::App;

/// The filters on every answer of some requests.
pub struct Filters {}

impl Filters {
    /// Filters for answers to these requests.
    pub fn new(_app: &App, _requests: &[Request]) -> Self {
        Self {}
    }

    /// Text that may be sent; `None` once the answer is refused.
    pub fn token(&mut self, _prompt: usize, _choice: usize, text: String) -> Option<String> {
        Some(text)
    }

    /// The last text that may be sent, and whether the answer is refused.
    pub fn finish(&mut self, _prompt: usize, _choice: usize, text: String) -> (String, bool) {
        (text, false)
    }

    /// Whether all answers to a prompt are refused.
    pub fn all_refused(&self, _prompt: usize) -> bool {
        false
    }
}
