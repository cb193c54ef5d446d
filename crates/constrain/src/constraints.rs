//! What is shared by all constraints on one vocabulary, and the way from a constraint to a matcher.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{ParserFactory, regex_to_lark};
use verve_tokenizer::Tokenizer;

use crate::constraint::{Constraint, check_grammar, check_regex};
use crate::error::{ConstrainError, Result, said};
use crate::hints::{Hints, Tokens};
use crate::matcher::Matcher;
use crate::schema::{self, Prepared};
use crate::vocabulary::Vocabulary;

/// Everything that constraints need to know about a vocabulary. Made once, cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Constraints {
    shared: Arc<Shared>,
}

struct Shared {
    factory: ParserFactory,
    tokens: Arc<Tokens>,
    n_vocab: usize,
}

/// Stack of the thread that compiles a constraint, in bytes. The engine recurses while it compiles; what it recurses over
/// is bounded, and this is far more than the bounds need.
const COMPILER_STACK: usize = 64 << 20;
/// What the engine says where no token may come next.
const NO_TOKEN: &str = "NoExtensionBias";
/// What is said about a constraint under which no text can begin.
const NOTHING: &str = "nothing matches it";
/// Most compilations that look for the place of an error in a schema.
const MAX_BLAME: usize = 48;

impl Constraints {
    /// Constraints on what a tokenizer's ids spell. `end` are the ids that end a text, at least one.
    ///
    /// Special tokens are no text: no constraint but a grammar that names them lets them through.
    ///
    /// # Errors
    /// [`ConstrainError::Vocabulary`] when no id ends a text or one is outside the vocabulary.
    pub fn new(tokenizer: &Arc<Tokenizer>, end: &[u32]) -> Result<Self> {
        Self::build(Vocabulary::of(tokenizer, end)?)
    }

    /// Constraints on a vocabulary of which only the bytes of each id are known. An id without bytes is never allowed.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_bytes<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>, end: &[u32]) -> Result<Self> {
        let words = tokens.into_iter().map(|token| token.as_ref().to_vec());
        Self::build(Vocabulary::new(words, end, None)?)
    }

    fn build(vocabulary: Vocabulary) -> Result<Self> {
        let env = vocabulary.into_env();
        let n_vocab = env.tok_trie().vocab_size();
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| ConstrainError::Vocabulary { problem: said(&error) })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: 50_000,
            max_grammar_size: 200_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let tokens = Arc::new(Tokens::new(env.tok_trie()));
        Ok(Self { shared: Arc::new(Shared { factory, tokens, n_vocab }) })
    }

    /// Number of ids. A mask has a bit for each, see [`Self::mask_words`].
    pub fn n_vocab(&self) -> usize {
        self.shared.n_vocab
    }

    /// Length of a mask in words of 32 bits.
    pub fn mask_words(&self) -> usize {
        self.shared.n_vocab.div_ceil(32)
    }

    /// Compiles a constraint and returns its matcher before the first token. Time and memory are bounded whatever comes
    /// in.
    ///
    /// # Errors
    /// [`ConstrainError::TooLarge`], [`ConstrainError::Schema`], [`ConstrainError::Unsatisfiable`],
    /// [`ConstrainError::Regex`] and [`ConstrainError::Grammar`] say what is wrong and where.
    pub fn start(&self, constraint: &Constraint) -> Result<Matcher> {
        let env = self.shared.factory.tok_env();
        let (parser, hints) = match constraint {
            Constraint::JsonObject => {
                let grammar = TopLevelGrammar::from_json_schema(schema::any_object());
                (self.compile(grammar).map_err(|problem| ConstrainError::Internal { problem })?, Hints::json(&[], env))
            }
            Constraint::JsonSchema(schema) => {
                let prepared = schema::prepare(schema)?;
                let grammar = TopLevelGrammar::from_json_schema(prepared.schema.clone());
                let parser = self.compile(grammar).map_err(|problem| self.blame(&prepared, problem))?;
                (parser, Hints::json(&prepared.hints, env))
            }
            Constraint::Regex(pattern) => {
                check_regex("regular expression", pattern)?;
                let grammar = TopLevelGrammar::from_regex(pattern);
                let parser = self.compile(grammar).map_err(|problem| ConstrainError::Regex { problem })?;
                (parser, Hints::regex(&regex_to_lark(pattern, "")))
            }
            Constraint::Grammar(text) => {
                check_grammar(text)?;
                let grammar = TopLevelGrammar::from_lark(text.clone());
                (self.compile(grammar).map_err(|problem| ConstrainError::Grammar { problem })?, Hints::Other)
            }
        };
        Ok(Matcher::new(parser, env.clone(), Arc::clone(&self.shared.tokens), hints))
    }

    /// Compiles a grammar on a thread of its own: with a stack that bounded input cannot fill, and where a panic ends
    /// nothing else.
    fn compile(&self, grammar: TopLevelGrammar) -> std::result::Result<llguidance::Matcher, String> {
        let factory = &self.shared.factory;
        let work = move || {
            let parser = factory.create_parser(grammar).map_err(|error| said(&format!("{error:#}")))?;
            let mut matcher = llguidance::Matcher::new(Ok(parser));
            // Notices a grammar that is complete before the first token.
            matcher.consume_tokens(&[]).map_err(|error| said(&error))?;
            // Notices one that no text satisfies.
            match matcher.clone().compute_mask_or_eos() {
                Err(error) if error.to_string().contains(NO_TOKEN) => Err(NOTHING.to_owned()),
                Err(error) => Err(said(&error)),
                Ok(_) => Ok(matcher),
            }
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("constraint".to_owned()).stack_size(COMPILER_STACK);
            match thread.spawn_scoped(scope, work) {
                Ok(running) => running.join().unwrap_or_else(|_| Err("it panicked".to_owned())),
                Err(error) => Err(format!("no thread to compile on: {error}")),
            }
        })
    }

    /// The place of an error that the engine reported without one: the innermost schema that fails on its own.
    fn blame(&self, prepared: &Prepared, problem: String) -> ConstrainError {
        let mut found = (schema::Path::root(), problem);
        let mut node = &prepared.schema;
        let mut compiled = 0;
        'inwards: loop {
            for (child, path) in schema::children(prepared, node, &found.0) {
                if compiled == MAX_BLAME {
                    break 'inwards;
                }
                compiled += 1;
                if let Err(problem) = self.compile(TopLevelGrammar::from_json_schema(schema::alone(prepared, child))) {
                    found = (path, problem);
                    node = child;
                    continue 'inwards;
                }
            }
            break;
        }
        let (path, problem) = found;
        let keyword = |name: &str| if node.get(name).is_some() { path.key(name) } else { path.clone() };
        match problem.split_once("Unsatisfiable schema: ") {
            Some((_, why)) => path.unsatisfiable(why),
            None if problem == NOTHING => path.unsatisfiable("no token of the vocabulary can come first"),
            None if problem.contains("regex parse error") => keyword("pattern").refused(problem),
            None if problem.starts_with("oneOf constraints") => keyword("oneOf").refused(
                "it is not clear that the options exclude each other; use `anyOf`, or tell them apart by type or by a \
                 required property of different constants",
            ),
            None if problem.contains("min/maxProperties") => path.refused(
                "`minProperties` and `maxProperties` can be enforced only where all listed properties are required",
            ),
            None => path.refused(problem),
        }
    }
}

impl std::fmt::Debug for Constraints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraints").field("n_vocab", &self.n_vocab()).finish_non_exhaustive()
    }
}
