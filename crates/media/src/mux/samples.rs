//! The first packets of every stream of a source, to try containers with.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use upscaled_core::types::source::StreamKind;

use crate::demux::late;
use crate::ffi::output;
use crate::mux::copied_streams::read;
use crate::mux::stream_selection::kind;

/// How far a source is read.
const PACKETS: usize = 20_000;
const BYTES: usize = 64 << 20;
/// Packets and bytes kept of a stream; the first packet is kept whatever its size is.
const EACH: usize = 16;
const EACH_BYTES: usize = 1 << 20;

/// The first packets of each stream.
#[derive(Default)]
pub struct Samples {
    streams: Vec<Vec<Packet>>,
    /// The source was read to its end: a stream without a packet holds none.
    whole: bool,
}

impl Samples {
    /// Reads the beginning of a source that is open, where it has more streams than the one. `video`: the stream that is
    /// upscaled, of which nothing is needed.
    ///
    /// # Errors
    /// Those of opening and reading it.
    pub fn of_source(path: &Path, input: &Input, video: usize) -> Result<Samples> {
        match input.nb_streams() {
            0 | 1 => Ok(Samples::default()),
            _ => Samples::read(path, video),
        }
    }

    fn read(path: &Path, video: usize) -> Result<Samples> {
        let mut input = late::open_source(path)?;
        let count = input.nb_streams() as usize;
        // Sound and pictures come at once; the others may come late or never.
        let steady: Vec<bool> = input
            .streams()
            .map(|stream| {
                let kind = kind(&output::facts(&stream));
                stream.index() != video && matches!(kind, StreamKind::Audio | StreamKind::Video)
            })
            .collect();
        if count <= usize::from(video < count) {
            return Ok(Samples { streams: Vec::new(), whole: true });
        }
        output::discard(&mut input, video);
        let mut streams: Vec<Vec<Packet>> = (0..count).map(|_| Vec::new()).collect();
        let mut kept = vec![0; count];
        let (mut packets, mut bytes) = (0, 0);
        while packets < PACKETS && bytes < BYTES {
            let Some(packet) = read(&mut input)? else { return Ok(Samples { streams, whole: true }) };
            packets += 1;
            bytes += packet.size();
            let index = packet.stream();
            if index >= count || index == video || packet.size() == 0 || streams[index].len() >= EACH {
                continue;
            }
            if streams[index].is_empty() || kept[index] + packet.size() <= EACH_BYTES {
                kept[index] += packet.size();
                streams[index].push(packet);
            }
            let full = |index: usize| streams[index].len() >= EACH || kept[index] * 2 >= EACH_BYTES;
            if steady.iter().enumerate().all(|(index, steady)| !steady || full(index)) {
                break;
            }
        }
        Ok(Samples { streams, whole: false })
    }

    /// Of one stream.
    pub fn of(&self, stream: usize) -> &[Packet] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a stream is known to hold no packets at all.
    pub fn is_empty(&self, stream: usize) -> bool {
        self.whole && self.of(stream).is_empty()
    }
}
