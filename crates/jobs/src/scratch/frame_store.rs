//! A batch's frames on the RAM disk: one Y4M file of fixed slots, usable again after a crash.
//!
//! The whole file is allocated first, so that a full RAM disk is an error at once and not at
//! some frame. A slot is `FRAME X<xxh3>\n` and the payload; the header is written last and is
//! the mark that the frame is there. Once all are, the file is a Y4M any program reads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use xxhash_rust::xxh3::xxh3_64;

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::frame::{Chroma, Frame, PixelFormat};
use upscaled_core::types::source::Rational;

use crate::scratch::area::WorkArea;

/// `FRAME X` + 16 hex digits + newline.
const MARK: usize = 24;
/// Limits of what is believed, as safety against nonsense: pixels of a side, bytes of a frame, frames of a batch.
const MAX_SIDE: u32 = 1 << 16;
const MAX_FRAME: u64 = 4 << 30;
const MAX_FRAMES: u64 = 100_000;

/// What a frame store holds; any difference makes it another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    pub batch: u64,
    /// Index of the batch's first frame.
    pub start: u64,
    /// Slots: frames of the batch by the plan.
    pub length: u64,
    pub format: PixelFormat,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    /// Nominal; unknown becomes 25.
    pub rate: Rational,
    /// `AVChromaLocation`, for the colour tag of 8-bit 4:2:0.
    pub chroma_location: u32,
    /// The plan's key.
    pub key: String,
}

/// The frames of one batch.
#[derive(Debug)]
pub struct FrameStore {
    path: PathBuf,
    file: File,
    spec: StoreSpec,
    header: u64,
    done: Vec<AtomicBool>,
}

impl StoreSpec {
    fn frame_bytes(&self) -> u64 {
        self.format.frame_bytes(self.width, self.height) as u64
    }

    /// The Y4M stream header; under 128 bytes.
    fn header(&self) -> String {
        let tag = match (self.format.chroma, self.format.depth) {
            (Chroma::C420, 8) => match self.chroma_location {
                2 => "420jpeg",
                3 => "420paldv",
                _ => "420mpeg2",
            },
            (Chroma::C422, 8) => "422",
            (Chroma::C444, 8) => "444",
            (Chroma::C420, _) => "420p10",
            (Chroma::C422, _) => "422p10",
            (Chroma::C444, _) => "444p10",
        };
        let rate = if self.rate.is_known() { self.rate } else { Rational::new(25, 1) };
        let all = format!("{:?}", self);
        format!(
            "YUV4MPEG2 W{} H{} F{}:{} Ip A0:0 C{tag} XUPSCALED={:.16}\n",
            self.width,
            self.height,
            rate.num,
            rate.den,
            blake3::hash(all.as_bytes()).to_hex().as_str()
        )
    }
}

impl FrameStore {
    /// Opens the batch's store in a work area. A file that was made for exactly this spec is
    /// taken on with every frame whose hash is right; any other is made anew.
    /// [`Fault::NoRamDisk`] when there is no room for the whole batch; then nothing new is left behind.
    pub fn open(area: &WorkArea, spec: &StoreSpec) -> Result<FrameStore> {
        let path = area.path().join(file_name(spec.batch));
        let taken = std::fs::symlink_metadata(&path).map_or(0, |m| m.blocks() * 512);
        let length = spec.header().len() as u64 + spec.length.saturating_mul(MARK as u64 + spec.frame_bytes());
        // An area that is no mount of its own has no other guard of its limit.
        if length > area.room().saturating_add(taken) {
            return Err(Fault::NoRamDisk.because(format!("no room on the RAM disk for {}", escape(&path))));
        }
        FrameStore::open_in(area.path(), spec)
    }

    /// [`FrameStore::open`] in any folder.
    pub fn open_in(dir: &Path, spec: &StoreSpec) -> Result<FrameStore> {
        let side = spec.width.max(spec.height);
        let bytes = if side > MAX_SIDE { 0 } else { spec.frame_bytes() };
        if bytes == 0 || bytes > MAX_FRAME || spec.length == 0 || spec.length > MAX_FRAMES {
            return Err(Fault::Internal.because(format!(
                "{} frames of {}x{} are no batch that can be stored",
                spec.length, spec.width, spec.height
            )));
        }
        let path = dir.join(file_name(spec.batch));
        let what = || format!("cannot open the frame store {}", escape(&path));
        let header = spec.header();
        let mut store = FrameStore {
            file: open_plain(&path).with_context(what)?,
            path: path.clone(),
            spec: spec.clone(),
            header: header.len() as u64,
            done: (0..spec.length).map(|_| AtomicBool::new(false)).collect(),
        };
        let is_ours = store.is_ours(header.as_bytes()).with_context(what)?;
        if !is_ours {
            store.file.set_len(0).with_context(what)?;
        }
        if let Err(error) = store.allocate() {
            if !is_ours {
                let _ = std::fs::remove_file(&path);
            }
            return Err(error);
        }
        if is_ours {
            store.prove().with_context(what)?;
        } else {
            store.file.write_all_at(header.as_bytes(), 0).map_err(no_room).with_context(what)?;
        }
        Ok(store)
    }

    fn slot(&self) -> u64 {
        MARK as u64 + self.spec.frame_bytes()
    }

    fn offset(&self, frame: usize) -> u64 {
        self.header + frame as u64 * self.slot()
    }

    /// Whether the file carries our header and is a whole number of slots long (cut or uncut).
    fn is_ours(&self, header: &[u8]) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        let Some(slots) = length.checked_sub(self.header) else { return Ok(false) };
        let mut found = vec![0; header.len()];
        self.file.read_exact_at(&mut found, 0)?;
        Ok(found == header && slots % self.slot() == 0 && slots / self.slot() <= self.spec.length)
    }

    fn allocate(&self) -> Result<()> {
        failpoint::hit("frame_store.allocate").map_err(|e| no_room_any(e, &self.path))?;
        let whole = self.header + self.spec.length * self.slot();
        let size = libc::off_t::try_from(whole).context("frame store too large")?;
        match fallocate(&self.file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            // A disk without it: writes tell when it is full.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.file.set_len(whole).with_context(|| format!("cannot enlarge {}", escape(&self.path)))
            }
            Err(error) => Err(no_room_any(io::Error::from(error).into(), &self.path)),
        }
    }

    /// Sets the marks of the frames that are really there; wipes those whose pixels do not fit.
    fn prove(&mut self) -> io::Result<()> {
        let mut payload = vec![0; self.spec.frame_bytes() as usize];
        for frame in 0..self.done.len() {
            let Some(hash) = self.mark(frame)? else { continue };
            self.file.read_exact_at(&mut payload, self.offset(frame) + MARK as u64)?;
            if xxh3_64(&payload) == hash {
                self.done[frame].store(true, Ordering::Release);
            } else {
                self.file.write_all_at(&[0; MARK], self.offset(frame))?;
            }
        }
        Ok(())
    }

    /// The hash in a slot's header, if there is a whole one.
    fn mark(&self, frame: usize) -> io::Result<Option<u64>> {
        let mut found = [0; MARK];
        self.file.read_exact_at(&mut found, self.offset(frame))?;
        let hash = found.strip_prefix(b"FRAME X").and_then(|rest| rest.strip_suffix(b"\n"));
        let hash = hash.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u64::from_str_radix(h, 16).ok());
        Ok(hash.filter(|h| mark_text(*h).as_bytes() == found))
    }

    /// Stores frame `i` of the batch. Threads may store different frames at once.
    pub fn put(&self, i: usize, frame: &Frame) -> Result<()> {
        let spec = &self.spec;
        let fits = (frame.format, frame.width, frame.height) == (spec.format, spec.width, spec.height)
            && frame.data.len() as u64 == spec.frame_bytes();
        let Some(done) = self.done.get(i).filter(|_| fits) else {
            return Err(Fault::Internal.because(format!(
                "frame {i} of {}x{} does not belong into {}",
                frame.width,
                frame.height,
                escape(&self.path)
            )));
        };
        let what = || format!("cannot store a frame in {}", escape(&self.path));
        done.store(false, Ordering::Release);
        failpoint::hit("frame_store.write").map_err(|e| no_room_any(e, &self.path))?;
        let at = self.offset(i);
        self.file.write_all_at(&frame.data, at + MARK as u64).map_err(no_room).with_context(what)?;
        failpoint::hit("frame_store.mark")?;
        self.file.write_all_at(mark_text(xxh3_64(&frame.data)).as_bytes(), at).map_err(no_room).with_context(what)?;
        done.store(true, Ordering::Release);
        Ok(())
    }

    /// Frame `i`, its hash checked; `None` when it is not there or damaged (then it is not there any more).
    pub fn get(&self, i: usize) -> Result<Option<Frame>> {
        let Some(done) = self.done.get(i).filter(|d| d.load(Ordering::Acquire)) else { return Ok(None) };
        let what = || format!("cannot read a frame from {}", escape(&self.path));
        let mut frame = Frame::new(self.spec.format, self.spec.width, self.spec.height);
        let hash = match self.mark(i) {
            Ok(hash) => hash,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(e).with_context(what),
        };
        let read = self.file.read_exact_at(&mut frame.data, self.offset(i) + MARK as u64);
        match (hash, read) {
            (Some(hash), Ok(())) if xxh3_64(&frame.data) == hash => Ok(Some(frame)),
            (_, Err(e)) if e.kind() != io::ErrorKind::UnexpectedEof => Err(e).with_context(what),
            _ => {
                done.store(false, Ordering::Release);
                Ok(None)
            }
        }
    }

    /// Which frames are there.
    pub fn have(&self) -> Vec<bool> {
        self.done.iter().map(|d| d.load(Ordering::Acquire)).collect()
    }

    /// Forgets frame `i` (its room stays taken).
    pub fn forget(&self, i: usize) -> Result<()> {
        if let Some(done) = self.done.get(i) {
            done.store(false, Ordering::Release);
            self.file.write_all_at(&[0; MARK], self.offset(i)).context("cannot forget a frame")?;
        }
        Ok(())
    }

    /// Cuts the file to its first `frames` slots: the source ended in this batch.
    pub fn cut(&mut self, frames: usize) -> Result<()> {
        if frames < self.done.len() {
            self.done.truncate(frames);
            let end = self.offset(frames);
            self.file.set_len(end).with_context(|| format!("cannot cut {}", escape(&self.path)))?;
        }
        Ok(())
    }

    /// Bytes the file takes.
    pub fn bytes(&self) -> u64 {
        self.offset(self.done.len())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file. Nothing of it is durable, so nothing is synced.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", escape(&self.path)))
            }
            _ => Ok(()),
        }
    }
}

/// The file of a batch's frames in its work area.
pub fn file_name(batch: u64) -> String {
    format!("batch-{batch:06}.y4m")
}

/// The batch of a file name exactly as [`file_name`] writes it.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let batch = name.strip_prefix("batch-")?.strip_suffix(".y4m")?.parse().ok()?;
    (file_name(batch) == name).then_some(batch)
}

fn mark_text(hash: u64) -> String {
    format!("FRAME X{hash:016x}\n")
}

/// A plain file, new or old; whatever else has the name is replaced.
fn open_plain(path: &Path) -> io::Result<File> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
        std::fs::remove_file(path).or_else(|_| std::fs::remove_dir_all(path))?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

fn no_room(error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Fault::NoRamDisk.because("the RAM disk is full"),
        _ => error.into(),
    }
}

fn no_room_any(error: anyhow::Error, path: &Path) -> anyhow::Error {
    if Fault::of(&error) == Fault::NoSpace {
        return Fault::NoRamDisk.because(format!("no room on the RAM disk for {}", escape(path)));
    }
    error.context(format!("cannot allocate {}", escape(path)))
}

#[cfg(test)]
mod tests;
