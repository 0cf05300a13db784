//! What a Matroska source says beyond what FFmpeg passes on: told as a loss, or written into the header of a Matroska
//! output, where the muxer is made to leave room for it.

use std::path::Path;

use anyhow::{Context, Result};
use ffmpeg_next::format::context::Input;

use upscaled_core::path_text::escape;
use upscaled_core::types::source::{Rational, StreamKind};

use crate::ffi::muxer::Muxer;
use crate::ffi::{output, tags};
use crate::mux::matroska::{MatroskaTrack, Mending, SegmentFacts, TrackKind, TrackMending, WrittenHeader};
use crate::mux::stream_selection::{How, KeptStream, kind};
use crate::timestamps::{Round, Seconds};

const NANO: Rational = Rational::new(1, 1_000_000_000);

/// What a source says, with the tracks of its streams.
pub struct Beyond {
    facts: SegmentFacts,
    /// For each stream of FFmpeg's, the index of its track.
    tracks: Vec<Option<usize>>,
}

impl Beyond {
    /// Reads it; `None` of sources of other kinds.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(source: &Path, input: &Input) -> Result<Option<Beyond>> {
        if !input.format().name().split(',').any(|name| name == "matroska") {
            return Ok(None);
        }
        let facts = SegmentFacts::read(source).with_context(|| format!("reading {}", escape(source)))?;
        let mut tracks = vec![None; input.nb_streams() as usize];
        // FFmpeg makes streams of tracks in their order, and of attachments behind them.
        let kinds = input.streams().map(|stream| (stream.index(), kind(&output::facts(&stream))));
        let streams: Vec<_> =
            kinds.filter(|(_, kind)| !matches!(kind, StreamKind::Attachment | StreamKind::CoverArt)).collect();
        let fits = |kind: StreamKind, track: &MatroskaTrack| match track.kind {
            TrackKind::Video => kind == StreamKind::Video,
            TrackKind::Audio => kind == StreamKind::Audio,
            TrackKind::Subtitle => kind == StreamKind::Subtitle,
            TrackKind::Data => true,
        };
        let known = streams.len() == facts.tracks.len()
            && streams.iter().zip(&facts.tracks).all(|((_, kind), track)| fits(*kind, track));
        if known {
            streams.iter().enumerate().for_each(|(track, (index, _))| tracks[*index] = Some(track));
        }
        Ok(Some(Beyond { facts, tracks }))
    }

    fn track(&self, kept: &KeptStream) -> Option<&MatroskaTrack> {
        let written = kept.how.is_read() || kept.how == How::Upscaled;
        let track = self.tracks.get(kept.source).copied().flatten().filter(|_| written)?;
        self.facts.tracks.get(track)
    }

    /// Chapters are written as the source has them.
    fn keeps_chapters(&self, input: &Input, container: &str) -> bool {
        let delivered = input.nb_chapters() as usize;
        let Some(chapters) = self.facts.chapters.as_ref().filter(|chapters| !chapters.is_plain(delivered)) else {
            return false;
        };
        // Tags name the chapter that they are of by its number, as FFmpeg writes that.
        let tagged = input
            .chapters()
            .any(|chapter| tags::of_chapter(&chapter).iter().any(|(key, _)| !key.eq_ignore_ascii_case("title")));
        container == "matroska" && delivered > 0 && (!tagged || chapters.has_short_numbers())
    }

    /// Names what of it an output does not keep.
    pub fn losses(&self, input: &Input, kept: &[KeptStream], container: &str) -> Vec<String> {
        let mapped = self.tracks.iter().any(Option::is_some);
        let written = WrittenHeader {
            matroska: container == "matroska",
            chapters: self.keeps_chapters(input, container),
            delivered: input.nb_chapters() as usize,
            tracks: mapped,
        };
        let has_language = |index: usize| {
            let language = input.stream(index).and_then(|stream| tags::get(&tags::of_stream(&stream), "language"));
            language.is_some_and(|language| language != "und")
        };
        let tracks: Vec<_> = match mapped {
            true => kept
                .iter()
                .filter_map(|kept| Some((kept.source, self.track(kept)?, has_language(kept.source))))
                .collect(),
            false => self.facts.tracks.iter().enumerate().map(|(index, track)| (index, track, true)).collect(),
        };
        self.facts.losses(&tracks, written)
    }

    /// Makes room in a Matroska output for what is to be written into it when it is whole. `sizes`: of the video before
    /// and after; `shift`: what all times are moved by.
    pub fn reserve(
        &self,
        muxer: &mut Muxer,
        input: &Input,
        streams: &[(KeptStream, usize)],
        sizes: [(u32, u32); 2],
        shift: Seconds,
    ) -> Mending {
        let mut mending = Mending::default();
        for (kept, output) in streams {
            let Some(track) = self.track(kept) else { continue };
            let language =
                input.stream(kept.source).and_then(|stream| tags::get(&tags::of_stream(&stream), "language"));
            let mut wanted = TrackMending {
                stream: *output,
                language: language.filter(|language| !language.is_empty()).unwrap_or_else(|| "und".into()),
                language_ietf: track.language.clone(),
                switched_off: !track.enabled,
                crop: track.crop,
                display: track.display,
            };
            if kept.how == How::Upscaled {
                let [from, to] = sizes;
                let part = |value: u64, from: u32, to: u32| {
                    let (from, to) = (u128::from(from.max(1)), u128::from(to));
                    ((u128::from(value) * to + from / 2) / from).min(u128::from(u32::MAX)) as u64
                };
                let [bottom, top, left, right] = track.crop;
                wanted.crop = [
                    part(bottom, from.1, to.1),
                    part(top, from.1, to.1),
                    part(left, from.0, to.0),
                    part(right, from.0, to.0),
                ];
                // Pixels become more, centimetres and ratios do not.
                wanted.display = track.display.map(|[width, height, unit]| match unit {
                    0 => [part(width, from.0, to.0), part(height, from.1, to.1), 0],
                    _ => [width, height, unit],
                });
            }
            if wanted.language_ietf.is_some() || wanted.switched_off || wanted.crop != [0; 4] {
                muxer.set_stream_tag(*output, "language", &wanted.room());
                mending.tracks.push(wanted);
            }
        }
        if self.keeps_chapters(input, "matroska") {
            let nanoseconds = shift.ticks(NANO, Round::Nearest);
            mending.chapters = self.facts.chapters.as_ref().map(|chapters| chapters.moved(nanoseconds));
        }
        if let Some(room) = mending.chapter_room() {
            muxer.set_chapter_title(0, &room);
        }
        mending
    }
}
