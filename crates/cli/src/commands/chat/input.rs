//! Where messages come from: the command line, a terminal with line editing, or lines of standard input.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// What is asked of the program.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A message for the model.
    Message(String),
    /// What can be typed.
    Help,
    /// Forget the conversation.
    Reset,
    /// Other instructions; none where the text is empty.
    System(String),
    /// Write the conversation into a file.
    Save(String),
    /// End.
    Quit,
    /// A line that starts with a slash and is no command.
    Unknown(String),
}

/// What can be typed, for people.
pub const HELP: &str = "\
/system TEXT   instructions from now on; without text, none
/reset         forget the conversation (instructions stay)
/save FILE     write the conversation as JSON
/quit          end (also Ctrl-D)
//text         a message that starts with a slash
A line that ends with \\ goes on in the next. Ctrl-C stops an answer.";

/// Understands a line; nothing for an empty one.
pub fn parse(line: &str) -> Option<Input> {
    if line.trim().is_empty() {
        return None;
    }
    let Some(command) = line.trim().strip_prefix('/') else { return Some(Input::Message(line.to_owned())) };
    if command.starts_with('/') {
        return Some(Input::Message(command.to_owned()));
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim().to_owned();
    Some(match name {
        "help" | "?" => Input::Help,
        "reset" | "clear" => Input::Reset,
        "system" => Input::System(rest),
        "save" if !rest.is_empty() => Input::Save(rest),
        "quit" | "exit" | "bye" => Input::Quit,
        _ => Input::Unknown(line.trim().to_owned()),
    })
}

/// A source of lines.
pub enum Lines {
    /// One message and no more.
    Once(Option<String>),
    /// A person.
    Terminal(Box<DefaultEditor>),
    /// A pipe or a file.
    Piped,
}

impl Lines {
    /// The source that the command line and standard input call for.
    ///
    /// # Errors
    /// A terminal that cannot be used.
    pub fn new(message: Option<String>) -> Result<Self> {
        if message.is_some() {
            return Ok(Self::Once(message));
        }
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            return Ok(Self::Terminal(Box::new(DefaultEditor::new().context("cannot read from the terminal")?)));
        }
        Ok(Self::Piped)
    }

    /// Whether a person is reading along.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next thing that is asked; [`Input::Quit`] at the end.
    ///
    /// # Errors
    /// Input that cannot be read or is no text.
    pub fn next(&mut self) -> Result<Input> {
        loop {
            let line = match self {
                // Whatever it looks like, it is a message.
                Self::Once(message) => return Ok(message.take().map_or(Input::Quit, Input::Message)),
                Self::Terminal(editor) => match edited(editor)? {
                    Some(line) => line,
                    None => return Ok(Input::Quit),
                },
                Self::Piped => match piped()? {
                    Some(line) => line,
                    None => return Ok(Input::Quit),
                },
            };
            if let Some(input) = parse(&line) {
                return Ok(input);
            }
        }
    }
}

/// Lines up to one that does not end with a backslash.
fn edited(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut text = String::new();
    let mut interrupted = false;
    loop {
        match editor.readline(if text.is_empty() { "> " } else { "... " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(start) => {
                    text.push_str(start);
                    text.push('\n');
                }
                None => {
                    text.push_str(&line);
                    // A history that is full forgets; nothing is lost that was wanted.
                    drop(editor.add_history_entry(text.as_str()));
                    return Ok(Some(text));
                }
            },
            Err(ReadlineError::Interrupted) if !interrupted => {
                interrupted = true;
                text.clear();
                eprintln!("(Ctrl-C again or /quit ends)");
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error).context("cannot read from the terminal"),
        }
    }
}

/// The same from standard input, without signs.
fn piped() -> Result<Option<String>> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).context("cannot read standard input")? == 0 {
            return Ok((!text.is_empty()).then_some(text));
        }
        let line = line.trim_end_matches(['\n', '\r']);
        match line.strip_suffix('\\') {
            Some(start) => {
                text.push_str(start);
                text.push('\n');
            }
            None => return Ok(Some(text + line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let message = |text: &str| Some(Input::Message(text.to_owned()));
        for (line, input) in [
            ("", None),
            ("  ", None),
            (" hi there ", message(" hi there ")),
            ("//etc", message("/etc")),
            ("/help", Some(Input::Help)),
            ("/system  Be brief. ", Some(Input::System("Be brief.".to_owned()))),
            ("/system", Some(Input::System(String::new()))),
            ("/save a b.json", Some(Input::Save("a b.json".to_owned()))),
            ("/save", Some(Input::Unknown("/save".to_owned()))),
            ("/quit", Some(Input::Quit)),
            ("/nonsense x", Some(Input::Unknown("/nonsense x".to_owned()))),
        ] {
            assert_eq!(parse(line), input, "{line}");
        }
    }
}
