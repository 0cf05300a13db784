//! Counts the samples that a decoder delivers of audio tracks: what is heard by players that go by samples.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, Stream, codec, decoder, frame};

use crate::demux::appended::JoinedParts;
use crate::demux::late;
use crate::ffi::output;
use crate::timestamps::Seconds;

const BEAT_PACKETS: u64 = 256;

/// What was heard of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Sum of the samples, each as long as its rate says.
    pub length: Seconds,
    /// What the packets say to cut off at the start of the track and at its end, likewise.
    pub trims: (Seconds, Seconds),
    /// Packets that the decoder refused.
    pub errors: u64,
}

/// Decodes one track and counts.
pub struct Counter {
    decoder: decoder::Audio,
    frame: frame::Audio,
    /// Samples at each rate.
    samples: BTreeMap<u32, u64>,
    trims: (u64, u64),
    errors: u64,
}

impl Counter {
    /// Opens the decoder of a track; `None` where this FFmpeg has none that takes it.
    pub fn open(stream: &Stream<'_>) -> Option<Counter> {
        let mut decoder = codec::Context::from_parameters(stream.parameters()).ok()?.decoder();
        decoder.set_packet_time_base(stream.time_base());
        let (samples, trims, errors) = Default::default();
        Some(Counter { decoder: decoder.audio().ok()?, frame: frame::Audio::empty(), samples, trims, errors })
    }

    /// Decodes the next packet; `None` ends the track.
    pub fn feed(&mut self, packet: Option<&Packet>) {
        let sent = match packet {
            Some(packet) => {
                let (start, end) = output::trimmed_samples(packet);
                if self.samples.is_empty() {
                    self.trims.0 = self.trims.0.max(u64::from(start));
                }
                self.trims.1 += u64::from(end);
                self.decoder.send_packet(packet)
            }
            None => self.decoder.send_eof(),
        };
        self.errors += u64::from(sent.is_err());
        loop {
            match self.decoder.receive_frame(&mut self.frame) {
                Ok(()) => *self.samples.entry(self.frame.rate()).or_default() += self.frame.samples() as u64,
                Err(ffmpeg_next::Error::Eof | ffmpeg_next::Error::Other { errno: libc::EAGAIN }) => break,
                Err(_) => {
                    self.errors += 1;
                    break;
                }
            }
        }
    }

    pub fn heard(&self) -> Heard {
        let of = |samples: u64, rate: u32| Seconds::new(i128::from(samples), i128::from(rate.max(1)));
        let length = self.samples.iter().fold(Seconds::ZERO, |sum, (rate, samples)| sum.plus(of(*samples, *rate)));
        let rate = self.decoder.rate();
        Heard { length, trims: (of(self.trims.0, rate), of(self.trims.1, rate)), errors: self.errors }
    }
}

/// Counts tracks of a file, given by their indices. Tracks without a decoder are left out.
///
/// # Errors
/// Those of opening it, and of `beat`.
pub fn count(path: &Path, tracks: &[usize], beat: &dyn Fn() -> Result<()>) -> Result<Vec<(usize, Heard)>> {
    let mut input = late::open_source(path)?;
    let parts = JoinedParts::of(&input, path);
    let mut counters = open(&input, tracks);
    for index in 0..input.nb_streams() as usize {
        if !counters.iter().any(|(track, _)| *track == index) {
            output::discard(&mut input, index);
        }
    }
    let mut packets = 0u64;
    while !counters.is_empty() {
        let mut packet = match output::read_packet(&mut input) {
            Ok(packet) => packet,
            Err(ffmpeg_next::Error::Other { errno: libc::EAGAIN }) => continue,
            // The end, or damage that ends the file for every reader.
            Err(_) => break,
        };
        parts.admit(&mut packet);
        if let Some((_, counter)) = counters.iter_mut().find(|(track, _)| *track == packet.stream())
            && packet.size() > 0
        {
            counter.feed(Some(&packet));
        }
        packets += 1;
        if packets.is_multiple_of(BEAT_PACKETS) {
            beat()?;
        }
    }
    Ok(finished(counters))
}

/// Opens the decoders of some tracks.
pub fn open(input: &Input, tracks: &[usize]) -> Vec<(usize, Counter)> {
    let found = tracks.iter().filter_map(|track| Some((*track, Counter::open(&input.stream(*track)?)?)));
    found.collect()
}

/// Ends the tracks and tells what was heard.
pub fn finished(mut counters: Vec<(usize, Counter)>) -> Vec<(usize, Heard)> {
    for (_, counter) in &mut counters {
        counter.feed(None);
    }
    counters.iter().map(|(track, counter)| (*track, counter.heard())).collect()
}
