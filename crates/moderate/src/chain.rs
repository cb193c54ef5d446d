//! The chain: filters made from their settings, and whole texts put through them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex_syntax::hir::Hir;

use crate::builtin::Form;
use crate::config::{Action, FilterConfig, FilterStage, ModerationConfig, OnFailure};
use crate::grouped::{Number, NumberRun};
use crate::patterns::{self, Patterns};
use crate::service::Service;
use crate::words::WordList;
use crate::{Builtin, Category, Finding, Moderation, ModerationError, OutputScan, Stage, Verdict, normal};

/// Largest file of words or expressions, bytes.
const FILE_BYTES: u64 = 16 << 20;
/// Most words and phrases in one filter.
const MOST_WORDS: usize = 200_000;
/// Longest word or phrase, bytes.
const WORD_BYTES: usize = 512;
/// Most expressions in one filter.
const MOST_PATTERNS: usize = 2_000;
/// Longest expression, bytes.
const PATTERN_BYTES: usize = 4096;
/// What may wait while an answer is streamed if nothing is set, and at most, bytes.
const MATCH_BYTES: (usize, usize) = (256, 16_384);

/// Filters in the order in which they are asked. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    filters: Arc<[Filter]>,
}

/// One filter, ready to look at text.
#[derive(Debug)]
pub(crate) struct Filter {
    pub name: String,
    pub stage: FilterStage,
    pub reason_code: String,
    pub category: Option<Category>,
    pub action: Action,
    pub looks: Vec<Look>,
    pub service: Option<Service>,
}

/// One way of looking.
#[derive(Debug)]
pub(crate) enum Look {
    Words(Box<WordList>),
    Patterns(Box<Patterns>),
    Number(Number),
}

impl Look {
    fn is_in(&self, text: &str) -> bool {
        match self {
            Self::Words(list) => list.is_in(text),
            Self::Patterns(patterns) => patterns.is_in(text),
            Self::Number(kind) => NumberRun::is_in(*kind, text),
        }
    }
}

impl Filter {
    pub fn finding(&self, stage: Stage) -> Finding {
        self.found(self.reason_code.clone(), self.category, stage)
    }

    fn found(&self, reason_code: String, category: Option<Category>, stage: Stage) -> Finding {
        Finding { filter: self.name.clone(), reason_code, category, stage }
    }

    fn is_in(&self, text: &str) -> bool {
        self.looks.iter().any(|look| look.is_in(text))
    }
}

impl Chain {
    /// Makes the filters. Files that are named without a folder are looked for in `folder`. Reads files and the environment.
    pub fn from_config(config: &ModerationConfig, folder: &Path) -> Result<Self, ModerationError> {
        let mut names = BTreeSet::new();
        for filter in &config.filters {
            if !names.insert(&filter.name) {
                return Err(ModerationError::SameName { filter: filter.name.clone() });
            }
        }
        let filters = config.filters.iter().map(|c| Maker { config: c, folder }.make());
        Ok(Self { filters: filters.collect::<Result<Vec<_>, _>>()?.into() })
    }

    /// Whether there are no filters at all.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Whether any filter looks at texts of this stage.
    pub fn looks_at(&self, stage: Stage) -> bool {
        self.filters.iter().any(|f| f.stage.covers(stage))
    }

    /// Whether a service is asked about texts of this stage. Services see whole texts only: where one is to judge an answer
    /// before any of it is sent, the answer must not be streamed.
    pub fn asks_services(&self, stage: Stage) -> bool {
        self.filters.iter().any(|f| f.stage.covers(stage) && f.service.is_some())
    }

    pub(crate) fn filters(&self) -> &Arc<[Filter]> {
        &self.filters
    }

    /// Puts a whole text through the filters of its stage, in their order, those that ask services last; stops at the first
    /// that refuses it. Blocks while services are asked.
    pub fn check(&self, stage: Stage, text: &str) -> Verdict {
        let mut verdict = Verdict::default();
        for filter in self.filters.iter().filter(|f| f.stage.covers(stage) && f.service.is_none()) {
            if filter.is_in(text) {
                let finding = filter.finding(stage);
                if filter.action == Action::Refuse {
                    verdict.refused = Some(finding);
                    return verdict;
                }
                verdict.records.push(finding);
            }
        }
        self.ask_services(stage, text, verdict)
    }

    /// Puts a whole text before the services of its stage only: for an answer that has been through an [`OutputScan`].
    pub fn check_services(&self, stage: Stage, text: &str) -> Verdict {
        self.ask_services(stage, text, Verdict::default())
    }

    fn ask_services(&self, stage: Stage, text: &str, mut verdict: Verdict) -> Verdict {
        for filter in self.filters.iter().filter(|f| f.stage.covers(stage)) {
            let Some(service) = &filter.service else { continue };
            let (finding, refuses) = match service.ask(text) {
                Ok(opinion) if opinion.flagged => {
                    let category = opinion.category().or(filter.category);
                    let finding = filter.found(filter.reason_code.clone(), category, stage);
                    (finding, filter.action == Action::Refuse)
                }
                Ok(_) => continue,
                Err(_) => {
                    let finding = filter.found(Finding::UNAVAILABLE.to_string(), None, stage);
                    (finding, filter.action == Action::Refuse && service.on_failure == OnFailure::Refuse)
                }
            };
            if refuses {
                verdict.refused = Some(finding);
                return verdict;
            }
            verdict.records.push(finding);
        }
        verdict
    }

    /// A scan of one answer that is streamed, by the filters of answers that ask no service.
    pub fn output_scan(&self) -> OutputScan {
        OutputScan::new(self)
    }

    /// What all filters of the chain, of either stage and whatever their action, say of a text. Blocks while services are asked.
    /// A service that does not answer is an error if its filter refuses then, and says nothing otherwise.
    pub fn categories(&self, text: &str) -> Result<Moderation, ModerationError> {
        let mut moderation =
            Moderation { flagged: false, categories: Category::ALL.map(|category| (category, false, 0.0)) };
        let mut raise = |category: Category, flagged: bool, score: f64| {
            for entry in moderation.categories.iter_mut().filter(|e| e.0 == category) {
                entry.1 |= flagged;
                entry.2 = entry.2.max(score);
            }
        };
        for filter in self.filters.iter() {
            match &filter.service {
                None if filter.is_in(text) => {
                    moderation.flagged = true;
                    if let Some(category) = filter.category {
                        raise(category, true, 1.0);
                    }
                }
                None => {}
                Some(service) => match service.ask(text) {
                    Ok(opinion) => {
                        moderation.flagged |= opinion.flagged;
                        for (category, flagged, score) in opinion.categories {
                            raise(category, flagged, score);
                        }
                    }
                    Err(_) if service.on_failure == OnFailure::Pass => {}
                    Err(why) => return Err(ModerationError::Unavailable { filter: filter.name.clone(), why }),
                },
            }
        }
        Ok(moderation)
    }
}

/// Makes one filter.
struct Maker<'a> {
    config: &'a FilterConfig,
    folder: &'a Path,
}

/// An entry of a list, with where it stands.
struct Entry {
    place: String,
    text: String,
}

impl Maker<'_> {
    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn make(&self) -> Result<Filter, ModerationError> {
        let config = self.config;
        for (field, text) in [("name", &config.name), ("reason_code", &config.reason_code)] {
            let length = text.trim().chars().count();
            if !(1..=64).contains(&length) || text.chars().any(char::is_control) {
                return Err(ModerationError::Label { filter: self.name(), field });
            }
        }
        let sources = [
            ("words", config.words.is_some() || config.words_file.is_some()),
            ("patterns", config.patterns.is_some() || config.patterns_file.is_some()),
            ("builtin", config.builtin.is_some()),
            ("service", config.service.is_some()),
        ];
        let found: Vec<_> = sources.iter().filter(|(_, is)| *is).map(|(what, _)| *what).collect();
        let [source] = found[..] else {
            return Err(ModerationError::Source { filter: self.name(), found });
        };
        if config.max_match_bytes.is_some() && source != "patterns" {
            return Err(ModerationError::Field { filter: self.name(), field: "max_match_bytes", with: "patterns" });
        }
        let looks = match source {
            "words" => self.words()?,
            "patterns" => self.patterns()?,
            "builtin" => self.builtin(config.builtin.as_deref().unwrap_or_default())?,
            _ => Vec::new(),
        };
        let service = config.service.as_ref().map(Service::new).transpose();
        Ok(Filter {
            name: self.name(),
            stage: config.stage,
            reason_code: config.reason_code.clone(),
            category: config.category,
            action: config.action,
            looks,
            service: service.map_err(|why| ModerationError::Service { filter: self.name(), why })?,
        })
    }

    fn words(&self) -> Result<Vec<Look>, ModerationError> {
        let mut phrases = BTreeSet::new();
        for entry in self.entries(self.config.words.as_deref(), self.config.words_file.as_ref(), "words", MOST_WORDS)? {
            if entry.text.len() > WORD_BYTES {
                return Err(self.entry(entry.place, format!("longer than {WORD_BYTES} bytes")));
            }
            let phrase = normal::phrase(&entry.text)
                .ok_or_else(|| self.entry(entry.place, "there is no letter or digit to look for".to_string()))?;
            phrases.insert(phrase);
        }
        let phrases: Vec<_> = phrases.into_iter().collect();
        let list = WordList::new(&phrases).map_err(|why| ModerationError::TooLarge { filter: self.name(), why })?;
        Ok(vec![Look::Words(Box::new(list))])
    }

    fn patterns(&self) -> Result<Vec<Look>, ModerationError> {
        let (usual, most) = MATCH_BYTES;
        let longest = self.config.max_match_bytes.unwrap_or(usual);
        if !(1..=most).contains(&longest) {
            return Err(ModerationError::Range {
                filter: self.name(),
                field: "max_match_bytes",
                found: longest as u64,
                low: 1,
                high: most as u64,
            });
        }
        let longest = self.config.stage.covers(Stage::Output).then_some(longest);
        let (inline, file) = (self.config.patterns.as_deref(), self.config.patterns_file.as_ref());
        let mut expressions = Vec::new();
        for entry in self.entries(inline, file, "patterns", MOST_PATTERNS)? {
            if entry.text.len() > PATTERN_BYTES {
                return Err(self.entry(entry.place, format!("longer than {PATTERN_BYTES} bytes")));
            }
            expressions.push(patterns::parse(&entry.text, longest).map_err(|why| self.entry(entry.place, why))?);
        }
        Ok(vec![self.compile(&expressions)?])
    }

    fn compile(&self, expressions: &[Hir]) -> Result<Look, ModerationError> {
        let patterns = Patterns::new(expressions);
        let patterns = patterns.map_err(|why| ModerationError::TooLarge { filter: self.name(), why })?;
        Ok(Look::Patterns(Box::new(patterns)))
    }

    fn builtin(&self, forms: &[Builtin]) -> Result<Vec<Look>, ModerationError> {
        let mut looks = Vec::new();
        for builtin in forms {
            looks.push(match builtin.form() {
                Form::Number(kind) => Look::Number(kind),
                Form::Patterns(patterns) => {
                    let expressions = patterns.iter().map(|pattern| {
                        let expression = patterns::parse(pattern, Some(Builtin::LONGEST));
                        expression.map_err(|why| self.entry(format!("{builtin:?}"), why))
                    });
                    self.compile(&expressions.collect::<Result<Vec<_>, _>>()?)?
                }
            });
        }
        if looks.is_empty() {
            return Err(ModerationError::Empty { filter: self.name(), what: "builtin" });
        }
        Ok(looks)
    }

    fn entry(&self, place: String, why: String) -> ModerationError {
        ModerationError::Entry { filter: self.name(), place, why }
    }

    /// The entries of an inline list and of a file.
    fn entries(
        &self,
        inline: Option<&[String]>,
        file: Option<&PathBuf>,
        what: &'static str,
        most: usize,
    ) -> Result<Vec<Entry>, ModerationError> {
        let mut entries = Vec::new();
        for (number, text) in inline.unwrap_or_default().iter().enumerate() {
            entries.push(Entry { place: format!("{what}, entry {}", number + 1), text: text.clone() });
        }
        if let Some(file) = file {
            let path = self.folder.join(file);
            let text = self.read(&path)?;
            for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
                let line = line.trim();
                if !line.is_empty() && !line.starts_with('#') {
                    let place = format!("{}, line {}", path.display(), number + 1);
                    entries.push(Entry { place, text: line.to_string() });
                }
            }
        }
        match entries.len() {
            0 => Err(ModerationError::Empty { filter: self.name(), what }),
            found if found > most => Err(ModerationError::TooMany { filter: self.name(), found, what, most }),
            _ => Ok(entries),
        }
    }

    fn read(&self, path: &Path) -> Result<String, ModerationError> {
        let fault = |source| ModerationError::File { filter: self.name(), path: path.to_path_buf(), source };
        let found = fs::metadata(path).map_err(fault)?.len();
        if found > FILE_BYTES {
            let (filter, path) = (self.name(), path.to_path_buf());
            return Err(ModerationError::FileSize { filter, path, found, most: FILE_BYTES });
        }
        fs::read_to_string(path).map_err(fault)
    }
}
