//! Secrets: what a client shows, and what is kept of it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::AccessError;

/// What every secret begins with, so that scanners find one in a place where it should not be.
const PREFIX: &str = "vk-";

/// Length of a secret: the prefix and 43 characters for 256 bits.
const LENGTH: usize = PREFIX.len() + 43;

/// An API key as its owner holds it: `vk-` and 256 bits from the operating system as 43 base64url characters. Only a keyed
/// hash of it is stored, so it can be shown once and never again.
pub struct Secret(String);

impl Secret {
    /// A new secret.
    pub(crate) fn new() -> Result<Self, AccessError> {
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?))))
    }

    /// The text to hand to the key's owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], AccessError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(AccessError::Randomness)?;
    Ok(bytes)
}

/// A new public id: `key_` and 40 bits as hexadecimal digits. The caller makes sure that it is free.
pub(crate) fn new_id() -> Result<String, AccessError> {
    let digits: String = random::<5>()?.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("key_{digits}"))
}

/// What is kept of a secret: its hash under a key that is random and kept in the same file, so that the hashes of two files
/// have nothing in common.
#[derive(Clone, Copy)]
pub(crate) struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of `secret`, or nothing if it has not the length of one (so that nobody makes us hash long texts).
    pub fn of(secret: &str, hash_key: &[u8; 32]) -> Option<Self> {
        (secret.len() == LENGTH && secret.starts_with(PREFIX))
            .then(|| Self(*blake3::keyed_hash(hash_key, secret.as_bytes()).as_bytes()))
    }

    /// From bytes in the file.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the file.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The part by which hashes are looked up in a table. Who does not know the hash key cannot choose it, so what the time of a
    /// look-up says about it says nothing about a secret.
    pub fn bucket(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether two hashes are the same, in time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_have_their_form() {
        let (a, b) = (Secret::new().unwrap(), Secret::new().unwrap());
        assert_ne!(a.reveal(), b.reveal());
        assert_eq!(a.reveal().len(), LENGTH);
        let body = a.reveal().strip_prefix("vk-").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(body).unwrap().len(), 32);
        assert!(!format!("{a:?}").contains(body));
    }

    #[test]
    fn a_hash_depends_on_every_character_and_on_the_hash_key() {
        let secret = Secret::new().unwrap();
        let hash = SecretHash::of(secret.reveal(), &[1; 32]).unwrap();
        assert!(hash.matches(&SecretHash::of(secret.reveal(), &[1; 32]).unwrap()));
        assert!(!hash.matches(&SecretHash::of(secret.reveal(), &[2; 32]).unwrap()));
        for i in PREFIX.len()..LENGTH {
            let mut changed = secret.reveal().as_bytes().to_vec();
            changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!hash.matches(&SecretHash::of(&changed, &[1; 32]).unwrap()), "character {i}");
        }
        for i in 0..32 {
            let mut bytes = *hash.bytes();
            bytes[i] ^= 1;
            assert!(!hash.matches(&SecretHash::from_bytes(bytes)), "byte {i}");
        }
        assert!(SecretHash::of("vk-short", &[1; 32]).is_none());
        assert!(SecretHash::of(&"x".repeat(LENGTH), &[1; 32]).is_none());
    }
}
