//! What frames say beside their pixels and go on saying in the output: closed captions and the active format.

use serde::{Deserialize, Serialize};

/// Bytes of one caption construct (`cc_data_pkt` of ATSC A/53).
pub const TRIPLET: usize = 3;
/// Most constructs of one frame that are carried: twice what one message holds, since a DVD has those of a whole group
/// of pictures in its first frame.
pub const TRIPLETS_MAX: usize = 62;
/// Most kinds of loss that a batch can tell of, and bytes of their words.
pub const LOSSES_MAX: usize = 64;
pub const LOSS_BYTES_MAX: usize = 256;

/// What a decoded frame says beside its pixels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Closed captions (CEA-608 and 708), a whole number of constructs.
    pub captions: Vec<u8>,
    /// Active format description (4 bits).
    pub active_format: Option<u8>,
    /// What is lost from this frame on and was not told before, in words.
    pub losses: Vec<String>,
}

/// User data of one frame of a batch, as a frame table holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserData {
    /// Index of the frame in its batch.
    pub frame: u64,
    #[serde(default, with = "hex", skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_format: Option<u8>,
}

impl UserData {
    /// The data of a frame; `None` when it has none.
    pub fn of(frame: u64, extras: &Extras) -> Option<UserData> {
        let has_any = !extras.captions.is_empty() || extras.active_format.is_some();
        let made = || UserData { frame, captions: extras.captions.clone(), active_format: extras.active_format };
        has_any.then(made)
    }

    /// Returns whether this can be what a frame says.
    pub fn is_possible(&self) -> bool {
        self.captions.len().is_multiple_of(TRIPLET)
            && self.captions.len() <= TRIPLETS_MAX * TRIPLET
            && self.active_format.is_none_or(|format| format < 16)
    }
}

/// Bytes as lower-case hex digits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let digits =
            |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
        to.serialize_str(&bytes.iter().flat_map(digits).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>();
        bytes.filter(|_| rest.is_empty()).ok_or_else(|| D::Error::custom("no hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_come_back_from_json() {
        let data = UserData { frame: 7, captions: vec![0xfc, 0x94, 0x2c], active_format: None };
        let text = serde_json::to_string(&data).unwrap();
        assert_eq!(text, r#"{"frame":7,"captions":"fc942c"}"#);
        assert_eq!(serde_json::from_str::<UserData>(&text).unwrap(), data);
        for bad in ["fc9", "FC94", "zz", "fcä"] {
            assert!(serde_json::from_str::<UserData>(&text.replace("fc942c", bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_frame_without_any_needs_no_entry() {
        assert_eq!(UserData::of(3, &Extras::default()), None);
        let format = Extras { active_format: Some(8), ..Extras::default() };
        assert_eq!(UserData::of(3, &format).unwrap().active_format, Some(8));
        let data =
            |triplets, active_format| UserData { frame: 0, captions: vec![0; triplets * TRIPLET], active_format };
        assert!(data(TRIPLETS_MAX, Some(15)).is_possible());
        assert!(!data(TRIPLETS_MAX + 1, None).is_possible() && !data(0, Some(16)).is_possible());
    }
}
