//! Checksums of files as they arrive.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::listing::Checksum;

/// The digest of what has arrived, of the kind that the hub gave.
pub(crate) struct Digest(Option<Context>);

impl Digest {
    /// For a file of `size` bytes.
    pub(crate) fn new(checksum: &Checksum, size: u64) -> Self {
        Self(match checksum {
            Checksum::Sha256(_) => Some(Context::new(&SHA256)),
            Checksum::Git(_) => {
                // Git hashes a header of its own before the content.
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                Some(context)
            }
            Checksum::Unknown => None,
        })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(context) = &mut self.0 {
            context.update(bytes);
        }
    }

    /// Takes in what is already in a file.
    pub(crate) fn update_from(&mut self, path: &Path) -> std::io::Result<()> {
        if self.0.is_none() {
            return Ok(());
        }
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.update(&buffer[..n]),
            }
        }
    }

    /// The digest in hexadecimal; `None` where there is nothing to compare with.
    pub(crate) fn finish(self) -> Option<String> {
        let digest = self.0?.finish();
        Some(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_as_git_and_the_hub_have_them() {
        let of = |checksum: Checksum, bytes: &[u8]| {
            let mut digest = Digest::new(&checksum, bytes.len() as u64);
            digest.update(bytes);
            digest.finish()
        };
        // `printf 'hello\n' | git hash-object --stdin`
        let git = of(Checksum::Git(String::new()), b"hello\n");
        assert_eq!(git.as_deref(), Some("ce013625030ba8dba906f756967f9e9ca394464a"));
        let sha = of(Checksum::Sha256(String::new()), b"abc");
        assert_eq!(sha.as_deref(), Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        assert_eq!(of(Checksum::Unknown, b"x"), None);
    }
}
