//! How the upscaled picture is to be shown, where the source's frames say it and not its container: orientation and
//! stereo layout, into the new container's header or into the video itself.

use anyhow::Result;
use ffmpeg_next::Stream;
use ffmpeg_next::ffi::AVPacketSideDataType::{
    self, AV_PKT_DATA_DISPLAYMATRIX, AV_PKT_DATA_SPHERICAL, AV_PKT_DATA_STEREO3D,
};
use ffmpeg_next::format::context::Input;

use upscaled_core::types::encoder::Codec;
use upscaled_core::types::source::InBand;

use crate::encode::sei::{self, Sei};
use crate::ffi::muxer::Muxer;
use crate::ffi::output;

/// What is written of the source's frames' own words.
#[derive(Debug, Default)]
pub struct DisplayOrientation {
    /// For the header of the stream.
    header: Vec<(AVPacketSideDataType, Vec<u8>)>,
    /// For every key frame.
    messages: Vec<Sei>,
    /// What has to be in the finished header, with the words for its loss.
    needed: Vec<(AVPacketSideDataType, &'static str)>,
    /// The header holds what the MP4 muxer writes only when it need not be strict.
    unofficial: bool,
}

impl DisplayOrientation {
    /// For a source stream whose frames say `in_band`.
    pub fn of(in_band: &InBand, from: &Stream<'_>, codec: Codec, container: &str) -> DisplayOrientation {
        let in_header = |kind| output::stream_side_data(from, kind).is_some();
        let mut view = DisplayOrientation::default();
        if let Some(matrix) = in_band.matrix.as_ref().filter(|_| !in_header(AV_PKT_DATA_DISPLAYMATRIX)) {
            let message = sei::orientation(codec, matrix).filter(|_| container == "matroska");
            // Never in both places: some players would turn it twice.
            if message.is_none() {
                let bytes = matrix.iter().flat_map(|value| value.to_ne_bytes()).collect();
                view.header.push((AV_PKT_DATA_DISPLAYMATRIX, bytes));
                view.needed.push((AV_PKT_DATA_DISPLAYMATRIX, "rotation (display orientation)"));
            }
            view.messages.extend(message);
        }
        let stereo = in_band.stereo.filter(|_| !in_header(AV_PKT_DATA_STEREO3D));
        if let Some(stereo) = stereo {
            let message = sei::frame_packing(codec, stereo);
            if message.is_none() {
                view.needed.push((AV_PKT_DATA_STEREO3D, "stereo 3D layout"));
            }
            view.messages.extend(message);
            view.header.extend(output::stereo_bytes(stereo).map(|bytes| (AV_PKT_DATA_STEREO3D, bytes)));
        }
        let boxes = stereo.is_some() || in_header(AV_PKT_DATA_STEREO3D) || in_header(AV_PKT_DATA_SPHERICAL);
        view.unofficial = container == "mp4" && boxes;
        view
    }

    /// Describes the stream in the header.
    pub fn describe(&self, muxer: &mut Muxer, index: usize) -> Result<()> {
        self.header.iter().try_for_each(|(kind, bytes)| muxer.set_side_data(index, *kind, bytes))
    }

    /// Returns what the header's options need beside the usual ones.
    pub fn option(&self) -> Option<(String, String)> {
        self.unofficial.then(|| ("strict".into(), "unofficial".into()))
    }

    /// The messages of every key frame.
    pub fn messages(&self) -> Vec<Sei> {
        self.messages.clone()
    }

    /// Returns what the finished file does not hold of it, in words.
    pub fn losses(&self, finished: &Input, video: usize) -> Vec<String> {
        let Some(stream) = finished.stream(video) else { return Vec::new() };
        let lost = self.needed.iter().filter(|(kind, _)| output::stream_side_data(&stream, *kind).is_none());
        lost.map(|(_, words)| format!("{words}: this container or FFmpeg cannot hold it")).collect()
    }
}
