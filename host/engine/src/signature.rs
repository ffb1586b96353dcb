//! Signatures of plugin files (`supervision` 4.12): minisign, prehashed, by keys that somebody trusts.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::death::{Refusal, RefusalReason};

/// The largest signature file that is read, in bytes: four short lines, of which the comments are free text.
pub(crate) const FILE_SIZE: u64 = 8 << 10;

/// Which key it is, as minisign shows it: the number by which signature and key find each other. It proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// The id in the binary form of a key or a signature: two bytes of algorithm, then the id.
    fn of(base64: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(base64.trim()).ok()?;
        bytes.get(2..10)?.try_into().ok().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

/// A minisign public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: minisign_verify::PublicKey,
    text: String,
}

impl PublicKey {
    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// A text that is no minisign public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a minisign public key; right is the second line of the .pub file: 56 characters, the first two of which are RW"
)]
pub struct NoPublicKey;

impl FromStr for PublicKey {
    type Err = NoPublicKey;

    fn from_str(text: &str) -> Result<Self, NoPublicKey> {
        let key = minisign_verify::PublicKey::from_base64(text).map_err(|_| NoPublicKey)?;
        Ok(Self { id: KeyId::of(text).ok_or(NoPublicKey)?, key, text: text.to_owned() })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Holds a file's bytes against the text of its signature file, trusted comment included. Tells the key that signed.
///
/// # Errors
/// `bad-signature` or `untrusted-key`, with what would be right.
pub fn verify(keys: &[PublicKey], bytes: &[u8], signature: &str) -> Result<KeyId, Refusal> {
    let parsed = minisign_verify::Signature::decode(signature);
    let id = signature.lines().nth(1).and_then(KeyId::of);
    let (Ok(parsed), Some(id)) = (parsed, id) else {
        return Err(bad("its signature file is not one of minisign"));
    };
    // Two keys may have one id: it is a random number, and anybody can copy it.
    let candidates: Vec<_> = keys.iter().filter(|key| key.id == id).collect();
    if candidates.is_empty() {
        let message = format!(
            "its signature is by the key {id}, which is not trusted: sign it with a trusted key, or add the public key \
             of {id} to checkers.trusted_keys"
        );
        return Err(Refusal::new(RefusalReason::UntrustedKey, message));
    }
    let mut legacy = false;
    for candidate in candidates {
        match candidate.key.verify(bytes, &parsed, false) {
            Ok(()) => return Ok(id),
            Err(error) => legacy |= matches!(error, minisign_verify::Error::UnexpectedAlgorithm),
        }
    }
    Err(if legacy {
        bad("its signature is of minisign's legacy kind, without the hash")
    } else {
        bad(&format!("its signature by the key {id} does not fit its bytes"))
    })
}

/// A `bad-signature`, with the remedy.
pub(crate) fn bad(what: &str) -> Refusal {
    Refusal::new(RefusalReason::BadSignature, format!("{what}: sign it anew with `apgar plugin sign`"))
}

/// There is no signature file, and one is required.
#[must_use]
pub fn unsigned(name: &str) -> Refusal {
    let message = format!(
        "there is no {name}.wasm.sig, and checkers.trusted_keys asks for one: make it with `apgar plugin sign {name}.wasm --key FILE`"
    );
    Refusal::new(RefusalReason::Unsigned, message)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A new key pair.
    pub(crate) fn pair() -> (minisign::KeyPair, PublicKey) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let public = pair.pk.to_base64().parse().unwrap();
        (pair, public)
    }

    /// The signature file of these bytes.
    pub(crate) fn sign(pair: &minisign::KeyPair, bytes: &[u8]) -> String {
        minisign::sign(None, &pair.sk, bytes, Some("for a test"), None).unwrap().into_string()
    }

    /// Signature of `test` in the legacy kind, and its key: the example of minisign's own documentation.
    pub(crate) const LEGACY: (&str, &str) = (
        "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
        "untrusted comment: signature from minisign secret key\n\
         RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=\n\
         trusted comment: timestamp:1555779966\tfile:test\n\
         QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==\n",
    );

    #[track_caller]
    fn check(keys: &[PublicKey], bytes: &[u8], signature: &str, expected: Result<KeyId, RefusalReason>) {
        assert_eq!(verify(keys, bytes, signature).map_err(|refusal| refusal.reason), expected);
    }

    #[test]
    fn p_71_only_a_prehashed_signature_of_a_trusted_key_is_good() {
        let ((ours, our_key), (theirs, their_key)) = (pair(), pair());
        let keys = [their_key.clone(), our_key.clone()];
        let good = sign(&ours, b"bytes");
        check(&keys, b"bytes", &good, Ok(our_key.id()));
        check(&keys, b"bytez", &good, Err(RefusalReason::BadSignature));
        check(&keys, b"bytes", &good.replace("for a test", "for a fest"), Err(RefusalReason::BadSignature));
        check(&keys, b"bytes", "", Err(RefusalReason::BadSignature));
        check(&keys, b"bytes", &good[..good.len() / 2], Err(RefusalReason::BadSignature));
        check(&[our_key], b"bytes", &sign(&theirs, b"bytes"), Err(RefusalReason::UntrustedKey));
        check(&[LEGACY.0.parse().unwrap()], b"test", LEGACY.1, Err(RefusalReason::BadSignature));
    }

    #[test]
    fn an_untrusted_key_is_named_as_minisign_names_it() {
        let key: PublicKey = LEGACY.0.parse().unwrap();
        assert_eq!(key.id().to_string(), "E7620F1842B4E81F");
        let refusal = verify(&[pair().1], b"test", LEGACY.1).unwrap_err();
        assert!(refusal.message.contains("E7620F1842B4E81F"), "{refusal}");
    }

    #[test]
    fn a_key_is_the_line_of_its_file() {
        for bad in ["", "RWQ", "no key", &LEGACY.0[..55], LEGACY.1] {
            assert_eq!(bad.parse::<PublicKey>(), Err(NoPublicKey), "{bad:?}");
        }
        assert_eq!(LEGACY.0.parse::<PublicKey>().unwrap().to_string(), LEGACY.0);
    }
}
