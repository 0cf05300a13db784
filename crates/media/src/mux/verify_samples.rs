//! Does a decoder deliver as many samples of each copied audio track as of the source? Players that go by samples keep
//! sound and picture together only then.

use anyhow::Result;
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use upscaled_core::types::source::StreamKind;

use crate::mux::assemble::OutputStream;
use crate::mux::sample_count::{self, Counter, Heard};
use crate::timestamps::Seconds;

/// The audio tracks of an output that is being read.
pub struct SampleCheck {
    counters: Vec<(usize, Counter)>,
}

/// How the tracks of source and output compare.
#[derive(Debug, Default)]
pub struct Compared {
    /// Tracks with as many samples.
    pub same: usize,
    /// Tracks that cannot be compared, since a part of them does not decode.
    pub damaged: usize,
    /// Differences that the container cannot help, in words.
    pub trims: Vec<String>,
    /// Differences that must not be, in words.
    pub wrong: Vec<String>,
}

fn is_compared(stream: &OutputStream) -> bool {
    stream.kept.kind == StreamKind::Audio && stream.kept.how.is_read()
}

impl SampleCheck {
    /// Opens the decoders of the output's tracks.
    pub fn new(output: &Input, streams: &[OutputStream]) -> SampleCheck {
        let tracks: Vec<_> = streams.iter().filter(|stream| is_compared(stream)).map(|stream| stream.output).collect();
        SampleCheck { counters: sample_count::open(output, &tracks) }
    }

    /// Takes the next packet of the output, whatever it is of.
    pub fn feed(&mut self, packet: &Packet) {
        if let Some((_, counter)) = self.counters.iter_mut().find(|(track, _)| *track == packet.stream()) {
            counter.feed(Some(packet));
        }
    }

    /// Counts those of the source and compares.
    ///
    /// # Errors
    /// Those of reading the source, and of `beat`.
    pub fn finish(
        self,
        source: &std::path::Path,
        streams: &[OutputStream],
        beat: &dyn Fn() -> Result<()>,
    ) -> Result<Compared> {
        let tracks: Vec<_> =
            streams.iter().filter(|stream| is_compared(stream)).map(|stream| stream.kept.source).collect();
        let wanted = sample_count::count(source, &tracks, beat)?;
        let found = sample_count::finished(self.counters);
        let mut made = Compared::default();
        for stream in streams.iter().filter(|stream| is_compared(stream)) {
            let of = |heard: &[(usize, Heard)], track| heard.iter().find(|(t, _)| *t == track).map(|(_, h)| h.clone());
            if let (Some(wanted), Some(found)) = (of(&wanted, stream.kept.source), of(&found, stream.output)) {
                let refused = stream.written.as_ref().map_or(0, |written| written.refused);
                made.compare(stream, &wanted, &found, refused);
            }
        }
        Ok(made)
    }
}

impl Compared {
    fn compare(&mut self, stream: &OutputStream, wanted: &Heard, found: &Heard, refused: u64) {
        if wanted.length == found.length {
            self.same += 1;
            return;
        }
        if wanted.errors + found.errors + refused > 0 {
            self.damaged += 1;
            return;
        }
        let name = format!(
            "output stream {} ({}, stream {} of the source)",
            stream.output, stream.kept.codec, stream.kept.source
        );
        let words =
            format!("{name} sounds for {:.6} s in place of {:.6} s", found.length.value(), wanted.length.value());
        // What the source's container says to cut off and this one cannot say.
        let trims = wanted.trims.0.plus(wanted.trims.1);
        let more = found.length.minus(wanted.length);
        match more.is_less(Seconds::ZERO) || trims.is_less(more) {
            true => self.wrong.push(words),
            false => self.trims.push(format!("{words} since the container cannot tell what is cut off of its ends")),
        }
    }

    /// Returns what was found, for people; empty when there was nothing to compare.
    pub fn sentence(&self) -> String {
        let mut words = Vec::new();
        if self.same > 0 {
            words.push(format!("as many samples as the source in {} audio track{}", self.same, plural(self.same)));
        }
        if self.damaged > 0 {
            words.push(format!("{} damaged audio track{} not compared", self.damaged, plural(self.damaged)));
        }
        words.extend(self.trims.iter().cloned());
        words.join(", ")
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::stream_selection::{How, KeptStream};

    fn compared(wanted: (i128, i128), found: i128, errors: u64) -> Compared {
        let kept =
            KeptStream { source: 1, kind: StreamKind::Audio, how: How::Copied, codec: "aac".into(), recut: false };
        let stream = OutputStream { kept, output: 1, written: None, promised: None };
        let heard = |samples, trim| Heard {
            length: Seconds::new(samples, 48_000),
            trims: (Seconds::new(trim, 48_000), Seconds::ZERO),
            errors: 0,
        };
        let mut made = Compared::default();
        let found = Heard { errors, ..heard(found, 0) };
        made.compare(&stream, &heard(wanted.0, wanted.1), &found, 0);
        made
    }

    #[test]
    fn only_what_the_container_cannot_trim_may_differ() {
        assert_eq!(compared((48_000, 0), 48_000, 0).same, 1);
        assert_eq!(compared((48_000, 64), 48_064, 0).trims.len(), 1);
        assert_eq!(compared((48_000, 64), 48_065, 0).wrong.len(), 1);
        assert_eq!(compared((48_000, 64), 47_999, 0).wrong.len(), 1);
        assert_eq!(compared((48_000, 0), 47_000, 1).damaged, 1);
        assert!(compared((48_000, 0), 48_000, 0).sentence().contains("1 audio track"));
    }
}
