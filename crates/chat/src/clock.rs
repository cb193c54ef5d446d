//! The time that `strftime_now` tells.

use jiff::civil::DateTime;
use jiff::fmt::strtime;
use minijinja::{Error, ErrorKind};

/// Where the time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// The machine's local time.
    #[default]
    Local,
    /// Always this many seconds after 1970-01-01 00:00:00, without a time zone. For tests and for runs that must repeat.
    Fixed(i64),
}

impl Clock {
    fn now(self) -> Result<DateTime, Error> {
        match self {
            Self::Local => Ok(jiff::ZonedDateTime::now().datetime()),
            Self::Fixed(seconds) => jiff::Timestamp::from_second(seconds)
                .map(|time| time.to_zoned_datetime(jiff::tz::TimeZone::UTC).datetime())
                .map_err(|error| failed("", &error)),
        }
    }

    /// The time as `strftime` writes it.
    pub(crate) fn format(self, format: &str) -> Result<String, Error> {
        strtime::format(format, self.now()?).map_err(|error| failed(format, &error))
    }
}

fn failed(format: &str, error: &jiff::Error) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("cannot write the time as {format:?}: {error}"))
}
