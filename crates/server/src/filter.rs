//! Filters on prompts and on answers, streamed or not. What a filter refuses never leaves the server, nor do its tokens.

use std::collections::VecDeque;
use std::sync::Arc;

use verve_engine::{AnswerToken, Request, Vocabulary};
use verve_moderate::{Chain, Finding, OutputScan, Stage};
use verve_tokenizer::Utf8Stream;

use crate::access::Caller;
use crate::api::blocking;
use crate::app::App;
use crate::error::ApiError;
use crate::generation::Update;
use crate::metrics::FilterLabels;

/// Puts what a request says through the filters.
///
/// # Errors
/// 400 when a filter refuses it.
pub async fn check_input(app: &Arc<App>, caller: &Caller, text: impl FnOnce() -> String) -> Result<(), ApiError> {
    let Some(chain) = app.moderation.clone().filter(|chain| chain.looks_at(Stage::Input)) else { return Ok(()) };
    let text = text();
    let verdict = blocking(move || Ok(chain.check(Stage::Input, &text))).await?;
    for finding in &verdict.records {
        note(app, &caller.request_id, finding, "recorded");
    }
    match verdict.refused {
        None => Ok(()),
        Some(finding) => {
            note(app, &caller.request_id, &finding, "refused");
            Err(ApiError::content_policy(&finding))
        }
    }
}

/// Records a finding with its reason; never the text.
pub fn note(app: &App, request_id: &str, finding: &Finding, outcome: &'static str) {
    let Finding { filter, reason_code, stage, .. } = finding;
    let stage = if *stage == Stage::Input { "input" } else { "output" };
    app.metrics.filtered.get_or_create(&FilterLabels { filter: filter.clone(), stage, outcome }).inc();
    tracing::warn!(request_id, filter, reason_code, stage, outcome, "filter");
}

/// The filters on every answer of some requests.
pub struct Filters {
    chain: Option<Chain>,
    vocabulary: Arc<Vocabulary>,
    /// By prompt and answer.
    answers: Vec<Vec<Scanned>>,
}

/// One answer on its way through the filters.
struct Scanned {
    scan: OutputScan,
    /// Tokens whose text is not all through yet, each with the place where its text ends.
    waiting: VecDeque<(AnswerToken, usize)>,
    /// The text as the tokens have it: what comes of it comes later, where it may become a stop text.
    utf8: Utf8Stream,
    /// Bytes of that text, and of the text that is through.
    decoded: usize,
    through: usize,
    /// Text that is through the scan and waits for a service's opinion.
    held: String,
    is_refused: bool,
}

/// How an answer ends, as far as the filters know.
pub enum Ended {
    /// With this text.
    Whole(String),
    /// Refused; this much more of it may be sent.
    Refused(String),
    /// Services are to be asked about this text first.
    Ask(String),
}

impl Filters {
    /// Filters for answers to these requests.
    pub fn new(app: &App, vocabulary: &Arc<Vocabulary>, requests: &[Request]) -> Self {
        let chain = app.moderation.clone().filter(|chain| chain.looks_at(Stage::Output));
        let answers = match &chain {
            None => Vec::new(),
            Some(chain) => {
                requests.iter().map(|request| (0..request.n).map(|_| Scanned::new(chain)).collect()).collect()
            }
        };
        Self { chain, vocabulary: vocabulary.clone(), answers }
    }

    /// The chain, if answers go through one.
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    fn asks_services(&self) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.asks_services(Stage::Output))
    }

    /// Takes a token and puts what may be sent into `out`.
    ///
    /// # Errors
    /// The finding, once, when the answer is refused; nothing of it comes out from then on.
    pub fn token(
        &mut self,
        prompt: usize,
        choice: usize,
        token: AnswerToken,
        text: String,
        out: &mut VecDeque<Update>,
    ) -> Result<(), Finding> {
        if self.chain.is_none() {
            out.push_back(Update::Token { prompt, choice, token, text });
            return Ok(());
        }
        let holds = self.asks_services();
        let answer = &mut self.answers[prompt][choice];
        if answer.is_refused {
            return Ok(());
        }
        let end = answer.end_of(self.vocabulary.bytes(token.id));
        answer.waiting.push_back((token, end));
        match answer.scan.push(&text) {
            Ok(safe) => {
                answer.held.push_str(&safe);
                if !holds {
                    answer.release(prompt, choice, out);
                }
                Ok(())
            }
            Err(refusal) => {
                answer.refuse(&refusal.safe, holds);
                Err(refusal.finding)
            }
        }
    }

    /// The end of an answer; what may still be sent of its tokens goes into `out`.
    pub fn finish(
        &mut self,
        prompt: usize,
        choice: usize,
        text: String,
        out: &mut VecDeque<Update>,
    ) -> (Ended, Option<Finding>) {
        if self.chain.is_none() {
            return (Ended::Whole(text), None);
        }
        let holds = self.asks_services();
        let answer = &mut self.answers[prompt][choice];
        if answer.is_refused {
            return (Ended::Refused(std::mem::take(&mut answer.held)), None);
        }
        let scanned = answer.scan.push(&text).and_then(|safe| {
            answer.held.push_str(&safe);
            answer.scan.finish()
        });
        match scanned {
            Ok(safe) => {
                answer.held.push_str(&safe);
                if holds {
                    return (Ended::Ask(answer.held.clone()), None);
                }
                (Ended::Whole(answer.release_all(prompt, choice, out)), None)
            }
            Err(refusal) => {
                answer.refuse(&refusal.safe, holds);
                (Ended::Refused(std::mem::take(&mut answer.held)), Some(refusal.finding))
            }
        }
    }

    /// What services said of an answer. Returns the end of its text.
    pub fn asked(&mut self, prompt: usize, choice: usize, is_refused: bool, out: &mut VecDeque<Update>) -> String {
        let answer = &mut self.answers[prompt][choice];
        if is_refused {
            answer.refuse("", true);
            String::new()
        } else {
            answer.release_all(prompt, choice, out)
        }
    }

    /// What filters found in an answer that they only record.
    pub fn records(&self, prompt: usize, choice: usize) -> &[Finding] {
        if self.chain.is_none() { &[] } else { self.answers[prompt][choice].scan.records() }
    }

    /// Whether all answers to a prompt are refused.
    pub fn all_refused(&self, prompt: usize) -> bool {
        self.answers.get(prompt).is_some_and(|answers| answers.iter().all(|answer| answer.is_refused))
    }
}

impl Scanned {
    fn new(chain: &Chain) -> Self {
        Self {
            scan: chain.output_scan(),
            waiting: VecDeque::new(),
            utf8: Utf8Stream::new(),
            decoded: 0,
            through: 0,
            held: String::new(),
            is_refused: false,
        }
    }

    /// Where the text of the next token ends, which has these bytes. It has not ended within a character.
    fn end_of(&mut self, bytes: &[u8]) -> usize {
        self.decoded += self.utf8.push(bytes).len();
        let is_within = !self.utf8.clone().finish().is_empty();
        self.decoded + usize::from(is_within)
    }

    /// Lets out what is through, with the tokens that it is the text of.
    fn release(&mut self, prompt: usize, choice: usize, out: &mut VecDeque<Update>) {
        let mut text = std::mem::take(&mut self.held);
        self.through += text.len();
        while self.waiting.front().is_some_and(|(_, end)| *end <= self.through) {
            let Some((token, _)) = self.waiting.pop_front() else { break };
            out.push_back(Update::Token { prompt, choice, token, text: std::mem::take(&mut text) });
        }
        // The beginning of a token that is not all through waits with it.
        self.through -= text.len();
        self.held = text;
    }

    /// Lets out everything, those of a stop text's tokens too; returns text that comes with no token.
    fn release_all(&mut self, prompt: usize, choice: usize, out: &mut VecDeque<Update>) -> String {
        let mut text = std::mem::take(&mut self.held);
        for (token, _) in self.waiting.drain(..) {
            out.push_back(Update::Token { prompt, choice, token, text: std::mem::take(&mut text) });
        }
        text
    }

    /// Lets nothing more out but `safe`, or nothing at all where services were to be asked.
    fn refuse(&mut self, safe: &str, holds: bool) {
        self.is_refused = true;
        self.waiting.clear();
        if holds {
            self.held.clear();
        } else {
            self.held.push_str(safe);
        }
    }
}
