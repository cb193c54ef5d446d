//! What the tests of this crate share.
#![allow(dead_code)]

pub mod models;

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use verve_engine::*;

/// A reported token, numbers as bits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chosen {
    pub id: u32,
    pub text: String,
    pub logprob: Option<u32>,
    pub alternatives: Vec<(u32, u32)>,
}

/// Everything that was reported for one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    pub tokens: Vec<Chosen>,
    /// Text at the end.
    pub last_text: String,
    pub finish: Option<Finish>,
    pub error: Option<String>,
}

impl Record {
    pub fn text(&self) -> String {
        self.tokens.iter().map(|token| &*token.text).chain([&*self.last_text]).collect()
    }

    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    pub fn reason(&self) -> Option<FinishReason> {
        self.finish.map(|finish| finish.reason)
    }

    fn is_over(&self) -> bool {
        self.finish.is_some() || self.error.is_some()
    }
}

/// Puts events into records and checks that each request gets exactly one last event.
pub struct Recorder(pub Vec<Record>);

impl Recorder {
    pub fn new(n_requests: usize) -> Self {
        Self(vec![Record::default(); n_requests])
    }

    pub fn take(&mut self, event: Event<'_>) {
        let record = &mut self.0[event.request()];
        assert!(!record.is_over(), "an event after the last: {event:?}");
        match event {
            Event::Token { id, text, logprob, alternatives, .. } => {
                let alternatives = alternatives.iter().map(|t| (t.id, t.logprob.to_bits())).collect();
                let (text, logprob) = (text.to_owned(), logprob.map(f32::to_bits));
                record.tokens.push(Chosen { id, text, logprob, alternatives });
            }
            Event::Finished { text, finish, .. } => {
                record.last_text = text.to_owned();
                record.finish = Some(finish);
            }
            Event::Failed { error, .. } => record.error = Some(error.to_string()),
        }
    }

    pub fn finish(self) -> Vec<Record> {
        assert!(self.0.iter().all(Record::is_over), "a request got no last event");
        self.0
    }
}

/// Records of a run that nobody interrupts.
pub fn records(
    n_requests: usize,
    run: impl FnOnce(&AtomicBool, OnEvent<'_>) -> Result<Totals, EngineError>,
) -> Vec<Record> {
    let mut recorder = Recorder::new(n_requests);
    run(&AtomicBool::new(false), &mut |event| {
        recorder.take(event);
        ControlFlow::Continue(())
    })
    .expect("the machine works");
    recorder.finish()
}
