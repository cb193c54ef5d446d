//! Forms that are built in.

use serde::Deserialize;

use crate::grouped::Number;

/// A form that filters know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Builtin {
    /// Payment cards, in groups or not, with a valid check digit.
    CardNumber,
    /// International bank account numbers with a valid check sum.
    Iban,
    /// E-mail addresses.
    Email,
    /// The first line of private keys in PEM and PGP files.
    PrivateKey,
    /// Keys to well-known services, by their form, and those of this program.
    ApiKey,
}

/// How a form is found.
pub(crate) enum Form {
    Number(Number),
    Patterns(&'static [&'static str]),
}

impl Builtin {
    pub(crate) fn form(self) -> Form {
        match self {
            Self::CardNumber => Form::Number(Number::Card),
            Self::Iban => Form::Number(Number::Iban),
            Self::Email => {
                Form::Patterns(&[r"(?-u:\b)[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}(?-u:\b)"])
            }
            Self::PrivateKey => Form::Patterns(&[r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"]),
            // As much as tells them from other text, so that they are found before they are complete.
            Self::ApiKey => Form::Patterns(&[
                r"(?-u:\b)vk-[A-Za-z0-9_-]{43}",
                r"(?-u:\b)sk-(?:[a-z]{2,8}[0-9]{0,2}-){0,2}[A-Za-z0-9_]{20}",
                r"(?-u:\b)(?:AKIA|ASIA)[0-9A-Z]{16}(?-u:\b)",
                r"(?-u:\b)gh[oprsu]_[A-Za-z0-9]{36}",
                r"(?-u:\b)github_pat_[A-Za-z0-9_]{22}",
                r"(?-u:\b)glpat-[A-Za-z0-9_-]{20}",
                r"(?-u:\b)xox[abeprs]-[A-Za-z0-9-]{10}",
                r"(?-u:\b)AIza[A-Za-z0-9_-]{35}",
                r"(?-u:\b)hf_[A-Za-z0-9]{34}",
                r"(?-u:\b)[rs]k_live_[A-Za-z0-9]{24}",
                r"(?-u:\b)npm_[A-Za-z0-9]{36}",
            ]),
        }
    }

    /// Longest match of its expressions, bytes.
    pub(crate) const LONGEST: usize = 512;
}
