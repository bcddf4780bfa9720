//! The little of WAV that a tiny request needs: a tone to be heard, and whether an answer has any sound in it.

/// A quarter of a second of a tone, as 16-bit mono at 16 kHz.
pub(crate) fn tone() -> Vec<u8> {
    const RATE: u32 = 16_000;
    const HALF_PERIOD: u32 = 18; // 444 Hz
    let samples = RATE / 4;
    let data_len = samples * 2;
    let mut wav = Vec::new();
    wav.extend(b"RIFF");
    wav.extend((36 + data_len).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16_u32.to_le_bytes());
    for (word, bytes) in [(1_u32, 2), (1, 2), (RATE, 4), (RATE * 2, 4), (2, 2), (16, 2)] {
        wav.extend(&word.to_le_bytes()[..bytes]);
    }
    wav.extend(b"data");
    wav.extend(data_len.to_le_bytes());
    for at in 0..samples {
        let level: i16 = if (at / HALF_PERIOD).is_multiple_of(2) { 8_000 } else { -8_000 };
        wav.extend(level.to_le_bytes());
    }
    wav
}

/// The number of samples in a WAV file, or what is wrong with it.
pub(crate) fn samples(wav: &[u8]) -> Result<usize, &'static str> {
    if wav.len() < 12 || &wav[..4] != b"RIFF" || &wav[8..12] != b"WAVE" {
        return Err("not a WAV file");
    }
    let mut rest = &wav[12..];
    let mut frame_bytes = None;
    while let Some((header, after)) = rest.split_first_chunk::<8>() {
        let said = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        // A file that is written while it is sent does not know its length yet.
        let len = said.min(after.len());
        match &header[..4] {
            b"fmt " if len >= 16 => frame_bytes = Some(usize::from(u16::from_le_bytes([after[12], after[13]]))),
            b"fmt " => return Err("a WAV file without a format"),
            b"data" => {
                return match frame_bytes {
                    None | Some(0) => Err("a WAV file without a format"),
                    Some(frame) => match (if said == 0 { after.len() } else { len }) / frame {
                        0 => Err("a WAV file without a sample"),
                        samples => Ok(samples),
                    },
                };
            }
            _ => {}
        }
        rest = after.get(len + len % 2..).unwrap_or_default();
    }
    Err("a WAV file without sound")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_tone_is_a_wav_file_and_what_is_cut_off_is_not() {
        let tone = tone();
        assert_eq!(samples(&tone), Ok(4_000));
        assert_eq!(samples(&tone[..44]), Err("a WAV file without a sample"));
        assert_eq!(samples(&tone[..36]), Err("a WAV file without sound"));
        assert_eq!(samples(b"RIFF"), Err("not a WAV file"));
        assert_eq!(samples(b"{\"error\":\"no voice\"}"), Err("not a WAV file"));
        // Sent while it is made: the length is unknown.
        for unknown in [[0_u8; 4], [0xff; 4]] {
            let mut streamed = tone.clone();
            streamed[40..44].copy_from_slice(&unknown);
            assert_eq!(samples(&streamed), Ok(4_000));
        }
        // A chunk that we do not know, of odd length, before the sound.
        let mut more = tone[..36].to_vec();
        more.extend(b"LIST\x03\x00\x00\x00abc\x00");
        more.extend(&tone[36..]);
        assert_eq!(samples(&more), Ok(4_000));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(start in 0_usize..60, junk in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = tone()[..start.min(44)].to_vec();
            bytes.extend(junk);
            let _any: Result<usize, &str> = samples(&bytes);
        }
    }
}
