//! What the tests of this crate share.
#![allow(dead_code)]

pub mod mock;
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

/// Everything that was reported for one request: for its first answer, and for those that follow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    pub tokens: Vec<Chosen>,
    /// Text at the end.
    pub last_text: String,
    pub finish: Option<Finish>,
    pub error: Option<String>,
    /// The prompt's tokens, and the bits of their log-probabilities and alternatives.
    pub prompt: Vec<Chosen>,
    /// Bits of the prompt's vector.
    pub embedding: Vec<u32>,
    /// Answers after the first.
    pub more: Vec<Record>,
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

    pub fn choice(&mut self, choice: usize) -> &mut Record {
        if choice == 0 {
            return self;
        }
        if self.more.len() < choice {
            self.more.resize(choice, Record::default());
        }
        &mut self.more[choice - 1]
    }

    pub fn is_over(&self) -> bool {
        self.error.is_some() || (self.finish.is_some() && self.more.iter().all(|record| record.finish.is_some()))
    }
}

fn chosen(token: &AnswerToken, text: &str) -> Chosen {
    Chosen {
        id: token.id,
        text: text.to_owned(),
        logprob: token.logprob.map(f32::to_bits),
        alternatives: token.alternatives.iter().map(|t| (t.id, t.logprob.to_bits())).collect(),
    }
}

/// Puts events into records and checks that each answer gets exactly one last event. How much of a prompt was found in
/// the cache is left out: it depends on company.
pub struct Recorder(pub Vec<Record>);

impl Recorder {
    pub fn new(n_requests: usize) -> Self {
        Self(vec![Record::default(); n_requests])
    }

    pub fn take(&mut self, event: Event<'_>) {
        let record = &mut self.0[event.request()];
        assert!(record.error.is_none(), "an event after the last: {event:?}");
        match event {
            Event::Prompt { tokens, .. } => {
                assert!(record.prompt.is_empty() && record.tokens.is_empty(), "a late or second prompt");
                record.prompt = tokens.iter().map(|token| chosen(token, "")).collect();
            }
            Event::Embedding { values, .. } => record.embedding = values.iter().map(|x| x.to_bits()).collect(),
            Event::Token { choice, id, text, logprob, alternatives, .. } => {
                let record = record.choice(choice);
                assert!(record.finish.is_none(), "a token after the end");
                let token = AnswerToken { id, logprob, alternatives: alternatives.to_vec() };
                record.tokens.push(chosen(&token, text));
            }
            Event::Finished { choice, text, finish, .. } => {
                let record = record.choice(choice);
                assert!(record.finish.is_none(), "a second end");
                record.last_text = text.to_owned();
                assert!(finish.n_cached < finish.n_prompt);
                record.finish = Some(Finish { n_cached: 0, n_discarded: 0, ..finish });
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
