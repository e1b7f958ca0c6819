//! The join token as text: `ptl1_` + base64url(message + CRC-32C).
//!
//! The checksum tells a damaged copy from a foreign or used token before anything is sent.

use crate::v1::JoinToken;
use data_encoding::BASE64URL_NOPAD;
use prost::Message as _;

const PREFIX: &str = "ptl1_";
/// Bounds what a hostile paste can make us decode.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Text that is not a whole join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No known prefix.
    #[error("this is not a join token: it should begin with `ptl1_`")]
    NotAToken,
    /// A prefix of a later version.
    #[error("this join token's version `{0}` is newer than this satellite understands: update the satellite")]
    NewerVersion(String),
    /// The checksum or the structure is wrong.
    #[error("the join token is damaged ({0}): copy it again, whole")]
    Damaged(&'static str),
}

impl JoinToken {
    /// The token's text.
    pub fn to_text(&self) -> String {
        let mut bytes = self.encode_to_vec();
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend(checksum.to_be_bytes());
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a token; white space around and inside it, as a terminal's line wrap leaves behind, is ignored.
    ///
    /// # Errors
    /// [`TokenError`] unless the text is a whole token of a version known here.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenError::NotAToken);
        }
        let text: String = text.split_whitespace().collect();
        let Some(body) = text.strip_prefix(PREFIX) else {
            let version: String = text.chars().take_while(|c| *c != '_').take(8).collect();
            let newer = version.strip_prefix("ptl").is_some_and(|v| v.parse::<u32>().is_ok_and(|v| v > 1));
            return Err(if newer { TokenError::NewerVersion(version) } else { TokenError::NotAToken });
        };
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| TokenError::Damaged("characters are missing or wrong"))?;
        let (message, checksum) =
            bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged("it is too short"))?;
        if crc32c::crc32c(message) != u32::from_be_bytes(*checksum) {
            return Err(TokenError::Damaged("its checksum does not match"));
        }
        let token = Self::decode(message).map_err(|_| TokenError::Damaged("it cannot be read"))?;
        if token.servers.is_empty() || token.ca_pin.len() != 32 || token.secret.len() != 32 {
            return Err(TokenError::Damaged("a part is missing"));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            servers: vec!["portolan.example.com:8443".into()],
            ca_pin: vec![7; 32],
            secret: vec![9; 32],
            scope: vec!["10.99.0.0/16".into()],
        }
    }

    #[test]
    fn reads_back_even_when_wrapped() {
        let text = token().to_text();
        assert_eq!(JoinToken::from_text(&text).unwrap(), token());
        let wrapped = format!(" {}\n  {}\n", &text[..40], &text[40..]);
        assert_eq!(JoinToken::from_text(&wrapped).unwrap(), token());
    }

    #[test]
    fn every_kind_of_wrong_is_told_apart() {
        assert_eq!(JoinToken::from_text("hello"), Err(TokenError::NotAToken));
        assert!(matches!(JoinToken::from_text("ptl2_AAAA"), Err(TokenError::NewerVersion(_))));
        let text = token().to_text();
        assert!(matches!(JoinToken::from_text(&text[..text.len() - 3]), Err(TokenError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn one_changed_character_is_damage(at in 5usize..100, to in "[A-Za-z0-9_-]") {
            let text = token().to_text();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != text);
            // The last character's spare bits may decode to the same bytes; decoding refuses those too.
            prop_assert!(JoinToken::from_text(&changed).is_err());
        }

        #[test]
        fn hostile_text_never_panics(text in "(ptl1_)?[ -~]{0,200}") {
            let _ = JoinToken::from_text(&text);
        }
    }
}
