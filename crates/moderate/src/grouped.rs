//! Numbers with a check sum that people write in groups: payment cards and IBANs.

/// A kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// Payment cards: a known issuer's first digits and length, and Luhn's check digit (ISO/IEC 7812).
    Card,
    /// International bank account numbers: a country's length, and 1 modulo 97 (ISO 13616).
    Iban,
}

/// First digits of cards, from and to, and the lengths from and to of numbers that begin with them.
const ISSUERS: &[(u32, u32, usize, usize)] = &[
    (4, 4, 13, 19),
    (34, 34, 15, 15),
    (37, 37, 15, 15),
    (36, 36, 14, 19),
    (38, 39, 14, 19),
    (50, 50, 13, 19),
    (51, 55, 16, 16),
    (56, 58, 13, 19),
    (62, 62, 16, 19),
    (63, 63, 13, 19),
    (65, 65, 16, 19),
    (67, 67, 13, 19),
    (300, 305, 14, 19),
    (644, 649, 16, 19),
    (2200, 2204, 16, 19),
    (2221, 2720, 16, 16),
    (3528, 3589, 16, 19),
    (6011, 6011, 16, 19),
];

/// Countries of IBANs with the length of their numbers.
const COUNTRIES: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 \
    ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 \
    LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 \
    SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20";

/// The same by the letters' numbers; 0 for no country.
const LENGTHS: [[u8; 26]; 26] = {
    let (text, mut table, mut at) = (COUNTRIES.as_bytes(), [[0; 26]; 26], 0);
    while at < text.len() {
        let length = (text[at + 2] - b'0') * 10 + (text[at + 3] - b'0');
        table[(text[at] - b'A') as usize][(text[at + 1] - b'A') as usize] = length;
        at += 5;
    }
    table
};

impl Number {
    /// The character as it counts in such a number: full-width forms are the same as ASCII's, small letters as capitals.
    fn accept(self, c: char) -> Option<u8> {
        let c = match c {
            '\u{ff10}'..='\u{ff19}' | '\u{ff21}'..='\u{ff3a}' | '\u{ff41}'..='\u{ff5a}' => {
                char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c)
            }
            _ => c,
        };
        let byte = u8::try_from(c).ok()?;
        let counts = match self {
            Self::Card => byte.is_ascii_digit(),
            Self::Iban => byte.is_ascii_alphanumeric(),
        };
        counts.then(|| byte.to_ascii_uppercase())
    }

    /// Whether `begun` can be the beginning of a number, or one.
    fn is_possible(self, begun: &[u8]) -> bool {
        match self {
            Self::Card => ISSUERS.iter().any(|issuer| issuer_fits(issuer, begun) && begun.len() <= issuer.3),
            Self::Iban => match begun {
                [] => true,
                [a] => a.is_ascii_uppercase(),
                [_, _, rest @ ..] => {
                    country_length(begun).is_some_and(|length| begun.len() <= length)
                        && rest.iter().take(2).all(u8::is_ascii_digit)
                }
            },
        }
    }

    /// Whether `number` is a whole one.
    fn is_whole(self, number: &[u8]) -> bool {
        match self {
            Self::Card => {
                let fits = |i: &(u32, u32, usize, usize)| issuer_fits(i, number) && (i.2..=i.3).contains(&number.len());
                ISSUERS.iter().any(fits) && luhn(number)
            }
            Self::Iban => country_length(number) == Some(number.len()) && mod97(number) == 1,
        }
    }
}

/// Whether the digits of `begun` can go on to be, or are, those of an issuer.
fn issuer_fits(&(from, to, ..): &(u32, u32, usize, usize), begun: &[u8]) -> bool {
    let width = from.checked_ilog10().map_or(1, |n| n as usize + 1);
    let digits = &begun[..begun.len().min(width)];
    let number = digits.iter().fold(0, |sum, d| sum * 10 + u32::from(d - b'0'));
    let open = 10u32.pow((width - digits.len()) as u32);
    (from / open..=to / open).contains(&number)
}

fn country_length(number: &[u8]) -> Option<usize> {
    let [a, b, ..] = number else { return None };
    let row = LENGTHS.get(usize::from(a.checked_sub(b'A')?))?;
    row.get(usize::from(b.checked_sub(b'A')?)).map(|length| usize::from(*length)).filter(|length| *length > 0)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0') * if place % 2 == 1 { 2 } else { 1 };
            digit / 10 + digit % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

fn mod97(number: &[u8]) -> u32 {
    let (head, tail) = number.split_at(4.min(number.len()));
    tail.iter().chain(head).fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}

/// What may stand between groups, one at a time.
fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '\u{a0}' | '\u{2010}'..='\u{2015}' | '\u{202f}')
}

/// A search for numbers through one text. A number begins and ends where groups do.
#[derive(Debug)]
pub(crate) struct NumberRun {
    kind: Number,
    /// Numbers that have begun: where, and what there is of them.
    begun: Vec<(u64, Vec<u8>)>,
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// A character of a group.
    Group,
    /// One separator after a group.
    Separator,
    /// A letter or digit that no number holds.
    Other,
    /// Anything else.
    Outside,
}

impl NumberRun {
    pub fn new(kind: Number) -> Self {
        Self { kind, begun: Vec::new(), last: Last::Outside }
    }

    /// Whether such a number stands in the text.
    pub fn is_in(kind: Number, text: &str) -> bool {
        let mut run = Self::new(kind);
        text.char_indices().any(|(at, c)| run.step(at as u64, c).is_some()) || run.finish().is_some()
    }

    /// Reads the character at byte `at`; where a number begins that is complete now.
    pub fn step(&mut self, at: u64, c: char) -> Option<u64> {
        let Some(byte) = self.kind.accept(c) else {
            let glued = c.is_alphanumeric();
            let found = if glued { None } else { self.whole() };
            self.last = match self.last {
                _ if glued => Last::Other,
                Last::Group if is_separator(c) => Last::Separator,
                _ => Last::Outside,
            };
            if self.last != Last::Separator {
                self.begun.clear();
            }
            return found;
        };
        if matches!(self.last, Last::Separator | Last::Outside) {
            self.begun.push((at, Vec::new()));
        }
        self.last = Last::Group;
        let kind = self.kind;
        self.begun.retain_mut(|(_, number)| {
            number.push(byte);
            kind.is_possible(number)
        });
        None
    }

    /// Ends the text; where a number begins that is complete with it.
    pub fn finish(&mut self) -> Option<u64> {
        self.whole()
    }

    fn whole(&self) -> Option<u64> {
        let whole = self.begun.iter().find(|(_, number)| self.last == Last::Group && self.kind.is_whole(number));
        whole.map(|(at, _)| *at)
    }

    /// Where the first number begins that may become complete.
    pub fn hold(&self) -> Option<u64> {
        self.begun.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards() {
        let is = |text| NumberRun::is_in(Number::Card, text);
        // Numbers that issuers publish for tests.
        for card in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111.",
            "(378282246310005)",
            "3782 822463 10005",
            "5555555555554444",
            "2223003122003222",
            "6011111111111117",
            "3530111333300000",
            "30569309025904",
            "４１１１ １１１１ １１１１ １１１１",
            "no 17 4111 1111 1111 1111, thanks",
            "room 4 4111 1111 1111 1111",
        ] {
            assert!(is(card), "{card}");
        }
        for other in [
            "4111111111111112",
            "41111111111111111111111",
            "x4111111111111111",
            "4111111111111111x",
            "4111  1111 1111 1111",
            "1234567890123452",
            "0000000000000000",
            "411111111111",
            "",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn ibans() {
        let is = |text| NumberRun::is_in(Number::Iban, text);
        // Examples of the registry.
        for iban in [
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "my iban is de89 3704 0044 0532 0130 00 and so on",
            "GB29 NWBK 6016 1331 9268 19.",
            "NO93 8601 1117 947",
            "FR14 2004 1010 0505 0001 3M02 606",
        ] {
            assert!(is(iban), "{iban}");
        }
        for other in [
            "DE89370400440532013001",
            "DE8937040044053201300",
            "XX89370400440532013000",
            "XDE89370400440532013000",
            "DE89370400440532013000X",
            "DE",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn only_what_may_become_a_number_is_held() {
        fn held(kind: Number, text: &str) -> Option<&str> {
            let mut run = NumberRun::new(kind);
            for (at, c) in text.char_indices() {
                run.step(at as u64, c);
            }
            run.hold().map(|at| &text[at as usize..])
        }
        assert_eq!(held(Number::Card, "in 2024 it was"), None);
        assert_eq!(held(Number::Card, "in 4111 "), Some("4111 "));
        assert_eq!(held(Number::Card, "in 1999"), None);
        assert_eq!(held(Number::Card, "in 7 4111 1"), Some("4111 1"));
        assert_eq!(held(Number::Iban, "the de"), Some("de"));
        assert_eq!(held(Number::Iban, "the des"), None);
        assert_eq!(held(Number::Iban, "de89 3704 x"), Some("de89 3704 x"));
    }
}
