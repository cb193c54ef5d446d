//! Reading the wire format of protocol buffers: a message is a list of numbered fields. Nothing is copied, and a field
//! that says it is longer than its message is an error, so a file costs no more than its size.

/// Value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    /// A whole number, a truth value or an enumeration.
    Number(u64),
    /// 32 bits: a float.
    Fixed32([u8; 4]),
    /// 64 bits.
    Fixed64([u8; 8]),
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) fn as_bool(self) -> Option<bool> {
        self.as_i32().map(|number| number != 0)
    }

    /// A 32-bit number; negative ones are written with 64 bits, of which the low ones count.
    pub(super) fn as_i32(self) -> Option<i32> {
        match self {
            Self::Number(number) => Some(number as i32),
            _ => None,
        }
    }

    pub(super) fn as_f32(self) -> Option<f32> {
        match self {
            Self::Fixed32(bytes) => Some(f32::from_le_bytes(bytes)),
            _ => None,
        }
    }

    pub(super) fn as_bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The fields of a message in order, each with its number; the error says what is wrong and ends the message.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| {
            format!("a field of {length} bytes where {} are left; the file is cut off or damaged", self.rest.len())
        })?;
        self.rest = rest;
        Ok(taken)
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number longer than 64 bits".to_owned())
    }

    fn field(&mut self) -> Result<(u64, Field<'a>), String> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Fixed64(fixed(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Field::Fixed32(fixed(self.take(4)?)),
            kind => return Err(format!("a field of wire type {kind}, which messages of this kind do not have")),
        };
        Ok((tag >> 3, value))
    }
}

/// Bytes whose number is known.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_kind_are_read() {
        let message = [8, 0x96, 1, 18, 2, b'h', b'i', 29, 0, 0, 0x80, 0x3f, 33, 1, 0, 0, 0, 0, 0, 0, 0];
        let fields: Vec<_> = Fields::new(&message).collect::<Result<_, _>>().unwrap_or_default();
        let expected = [
            (1, Field::Number(150)),
            (2, Field::Bytes(b"hi")),
            (3, Field::Fixed32(1f32.to_le_bytes())),
            (4, Field::Fixed64(1u64.to_le_bytes())),
        ];
        assert_eq!(fields, expected);
        let negative = [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Fields::new(&negative).next().and_then(|f| f.ok()?.1.as_i32()), Some(-1));
    }

    #[test]
    fn damaged_messages_end_with_an_error() {
        let long = [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let huge = [10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        for message in [&[8][..], &[10, 5, 1], &[13, 1, 2], &[9, 1], &[11], &[0x80], &long, &huge] {
            let mut fields = Fields::new(message);
            assert!(fields.next().is_some_and(|field| field.is_err()), "{message:?}");
            assert!(fields.next().is_none());
        }
    }
}
