//! What template and tokenizer do to each other.

use std::fmt;

use crate::template::ChatTemplate;

/// What a tokenizer says, as far as a template is concerned.
pub struct Vocabulary<'a> {
    /// Whether the tokenizer puts a beginning-of-text token before every text by itself.
    pub adds_bos: bool,
    /// Number of tokens that a text becomes, its special tokens parsed.
    pub count: &'a dyn Fn(&str) -> usize,
}

/// Something that would go wrong where it is not known. Nothing of it changes what is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The template writes the beginning-of-text token, and the tokenizer would add another one.
    DoubleBos {
        /// Its text.
        token: String,
    },
    /// The text that ends an assistant's turn is not one token, so that it must be watched for as text.
    StopIsNotOneToken {
        /// The text.
        text: String,
        /// What it becomes.
        n_tokens: usize,
    },
    /// The template ends an assistant's turn with nothing that could be waited for.
    NoEndOfTurn,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoubleBos { token } => write!(
                f,
                "the chat template writes {token} and the tokenizer would add it again; verve adds it once, other programs \
                 may not"
            ),
            Self::StopIsNotOneToken { text, n_tokens } => write!(
                f,
                "the chat template ends a turn with {text:?}, which is {n_tokens} tokens of this vocabulary and not one: \
                 template and tokenizer may not belong together; answers are cut at the text"
            ),
            Self::NoEndOfTurn => f.write_str(
                "the chat template writes nothing after an assistant's words, so only an end-of-text token ends an answer",
            ),
        }
    }
}

impl ChatTemplate {
    /// The text that ends an assistant's turn, such as `<|im_end|>`; `None` if the template writes nothing there.
    pub fn end_of_turn(&self) -> Option<String> {
        crate::probe::end_of_turn(self)
    }

    /// Whether rendered text starts with the beginning-of-text token.
    pub fn writes_bos(&self) -> bool {
        use crate::message::{Message, Role};
        let Some(bos) = self.specials().bos.as_deref().filter(|bos| !bos.is_empty()) else { return false };
        let messages = [Message::new(Role::User, "x")];
        let input = crate::template::ChatInput::new(&messages);
        self.render(&input).is_ok_and(|text| text.starts_with(bos))
    }

    /// Checks the template against a vocabulary.
    pub fn warnings(&self, vocabulary: &Vocabulary<'_>) -> Vec<Warning> {
        let mut out = Vec::new();
        if vocabulary.adds_bos && self.writes_bos() {
            out.push(Warning::DoubleBos { token: self.specials().bos.clone().unwrap_or_default() });
        }
        match self.end_of_turn() {
            None => out.push(Warning::NoEndOfTurn),
            Some(text) => {
                let n_tokens = (vocabulary.count)(&text);
                if n_tokens != 1 {
                    out.push(Warning::StopIsNotOneToken { text, n_tokens });
                }
            }
        }
        out
    }
}
