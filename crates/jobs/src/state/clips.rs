//! Sealed clips: their names, their hashes, how one is sealed and which ones are believed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::{escape, told};
use upscaled_core::types::plan::Plan;
use upscaled_core::{atomic_file, failpoint};

use crate::state::frame_table::{FrameTable, parse_table_name};
use crate::state::job_dir::JobDir;

/// Hex digits of a clip's hash in its name (128 bits).
pub const HASH_DIGITS: usize = 32;
const CHUNK: usize = 1 << 20;

/// Called with the bytes of every piece that was worked on; an error stops the work.
pub type Beat<'a> = &'a dyn Fn(u64) -> Result<()>;

/// A batch that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedClip {
    /// Batch index.
    pub index: u64,
    pub frames: u64,
    /// Keyed BLAKE3, [`HASH_DIGITS`] hex digits.
    pub hash: String,
    pub path: PathBuf,
    pub bytes: u64,
    /// Without the frames' user data ([`JobDir::read_table`] has it).
    pub table: FrameTable,
}

/// What [`JobDir::sealed`] found.
#[derive(Debug, Default)]
pub struct SealedClips {
    /// By index, each at most once; there may be holes, which are to be made again.
    pub clips: Vec<SealedClip>,
    /// What was not believed and has been removed, in words, for the log.
    pub dropped: Vec<String>,
}

impl SealedClips {
    /// Batches sealed without a hole from the first one on.
    pub fn contiguous(&self) -> u64 {
        self.clips.iter().zip(0..).take_while(|(clip, n)| clip.index == *n).count() as u64
    }
}

/// `000012-240-<hash>.nut`.
pub fn clip_name(index: u64, frames: u64, hash: &str) -> String {
    format!("{index:06}-{frames}-{hash}.nut")
}

/// Index, frames and hash of a clip's file name; `None` when it is not exactly as [`clip_name`] writes it.
pub fn parse_clip_name(name: &OsStr) -> Option<(u64, u64, String)> {
    let name = name.to_str()?;
    let mut parts = name.strip_suffix(".nut")?.split('-');
    let (index, frames, hash) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    let whole = is_hash(hash) && clip_name(index, frames, hash) == name;
    whole.then(|| (index, frames, hash.to_string()))
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == HASH_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Hash of a clip or spill: BLAKE3 keyed by the plan's key, [`HASH_DIGITS`] hex digits.
pub fn clip_hash(path: &Path, key: &str) -> Result<String> {
    keyed_hash(path, key, &|_| Ok(()))
}

/// [`clip_hash`] that tells how it goes on.
pub fn keyed_hash(path: &Path, key: &str, beat: Beat) -> Result<String> {
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("upscaled clip v1", key.as_bytes()));
    hash_file(path, &mut hasher, beat, |_| Ok(()))?;
    Ok(hasher.finalize().to_hex()[..HASH_DIGITS].to_string())
}

/// BLAKE3 of a file as `b3sum` prints it.
pub fn file_hash(path: &Path, beat: Beat) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hash_file(path, &mut hasher, beat, |_| Ok(()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_file(
    path: &Path,
    hasher: &mut blake3::Hasher,
    beat: Beat,
    mut also: impl FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let what = || format!("cannot read {}", escape(path));
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).with_context(what)?;
    if !file.metadata().with_context(what)?.is_file() {
        return Err(Fault::DamagedState.because(format!("{} is not a plain file", escape(path))));
    }
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).with_context(what),
        };
        hasher.update(&buffer[..n]);
        also(&buffer[..n])?;
        total += n as u64;
        beat(n as u64)?;
    }
}

/// Brings a finished file (on the RAM disk or on the same disk) durably to `folder` under the
/// name that `name` makes of its hash: copy, fsync, read back and compare, rename, fsync of
/// the folder. The given file is gone afterwards.
pub(super) fn seal_hashed(
    part: &Path,
    folder: &Path,
    temp: &str,
    key: &str,
    name: impl Fn(&str) -> String,
    beat: Beat,
) -> Result<(PathBuf, String)> {
    let staged = folder.join(temp);
    let what = || format!("cannot seal a file into {}", escape(folder));
    let same_disk = fs::metadata(part).with_context(what)?.dev() == fs::metadata(folder).with_context(what)?.dev();
    let hash = if same_disk {
        let hash = keyed_hash(part, key, beat)?;
        fs::rename(part, &staged).with_context(what)?;
        let file = File::open(&staged).with_context(what)?;
        sync(&file).inspect_err(|_| drop(fs::remove_file(&staged))).with_context(what)?;
        hash
    } else {
        // A failed fsync has thrown pages away: the copy is made anew, once.
        copy(part, &staged, key, beat)
            .or_else(|e| if Fault::of(&e) == Fault::Io { copy(part, &staged, key, beat) } else { Err(e) })
            .inspect_err(|_| drop(fs::remove_file(&staged)))
            .with_context(what)?
    };
    failpoint::hit("seal.check")?;
    if keyed_hash(&staged, key, beat)? != hash {
        let _ = fs::remove_file(&staged);
        return Err(Fault::Io.because(format!("{} reads back differently than it was written", escape(&staged))));
    }
    let target = folder.join(name(&hash));
    failpoint::hit("seal.rename")?;
    atomic_file::rename(&staged, &target)?;
    if !same_disk {
        // Not durable, not needed: the RAM disk's copy.
        fs::remove_file(part).with_context(|| format!("cannot remove {}", told(part)))?;
    }
    Ok((target, hash))
}

fn copy(from: &Path, to: &Path, key: &str, beat: Beat) -> Result<String> {
    failpoint::hit("seal.copy")?;
    match fs::remove_file(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let mut out = File::create_new(to)?;
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("upscaled clip v1", key.as_bytes()));
    hash_file(from, &mut hasher, beat, |piece| Ok(out.write_all(piece)?))?;
    sync(&out)?;
    Ok(hasher.finalize().to_hex()[..HASH_DIGITS].to_string())
}

fn sync(file: &File) -> Result<()> {
    failpoint::hit("seal.fsync")?;
    Ok(file.sync_all()?)
}

impl JobDir {
    /// Seals a checked clip of batch `index` (its frame table is sealed already). Afterwards the
    /// batch is done, whatever happens; `part` is gone.
    pub fn seal_clip(&self, part: &Path, index: u64, frames: u64, key: &str, beat: Beat) -> Result<SealedClip> {
        let mut table = self.read_table(index, key)?.ok_or_else(|| {
            Fault::Internal.because(format!("the frame table of batch {index} must be sealed before its clip"))
        })?;
        let temp = format!("{index:06}.part");
        let (path, hash) =
            seal_hashed(part, &self.clips_dir(), &temp, key, |hash| clip_name(index, frames, hash), beat)?;
        let bytes = fs::metadata(&path)?.len();
        table.user_data = Vec::new();
        Ok(SealedClip { index, frames, hash, path, bytes, table })
    }

    /// The batches that are done: frame table and clip both there, in agreement with each
    /// other and the plan, the clip's hash as its name says. Everything else in `clips/`
    /// is removed and reported. Needs the lock.
    pub fn sealed(&self, plan: &Plan, beat: Beat) -> Result<SealedClips> {
        self.must_hold_lock()?;
        let mut found = SealedClips::default();
        let mut clips: BTreeMap<u64, Vec<(u64, String, PathBuf)>> = BTreeMap::new();
        let mut tables: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for path in self.list(&self.clips_dir())? {
            let name = path.file_name().unwrap_or_default();
            if let Some((index, frames, hash)) = parse_clip_name(name) {
                clips.entry(index).or_default().push((frames, hash, path));
            } else if let Some(index) = name.to_str().and_then(parse_table_name) {
                tables.insert(index, path);
            } else {
                self.drop_entry(&path, "it is no sealed file", &mut found.dropped)?;
            }
        }
        for (index, mut rivals) in clips {
            rivals.sort();
            for (frames, hash, path) in rivals {
                let taken = found.clips.last().is_some_and(|c| c.index == index);
                let verdict = if taken {
                    Err("another clip of this batch is sealed already".to_string())
                } else {
                    self.judge(plan, index, frames, &hash, &path, beat)?
                };
                match verdict {
                    Ok((table, bytes)) => found.clips.push(SealedClip { index, frames, hash, path, bytes, table }),
                    Err(why) => self.drop_entry(&path, &why, &mut found.dropped)?,
                }
            }
            if found.clips.last().is_some_and(|c| c.index == index) {
                tables.remove(&index);
            }
        }
        for path in tables.into_values() {
            self.drop_entry(&path, "its batch has no sealed clip", &mut found.dropped)?;
        }
        Ok(found)
    }

    /// Whether a clip is believed: the table and its size, or why not. `Err` only for failures that say
    /// nothing of the clip.
    fn judge(
        &self,
        plan: &Plan,
        index: u64,
        frames: u64,
        hash: &str,
        path: &Path,
        beat: Beat,
    ) -> Result<Result<(FrameTable, u64), String>> {
        if index > u64::MAX / plan.batches.following.max(1) - 2 {
            return Ok(Err("its index is out of all bounds".into()));
        }
        let range = plan.batches.range(index);
        let mut table = match believe(self.read_table(index, &plan.key))? {
            Ok(Some(table)) => table,
            Ok(None) => return Ok(Err("its frame table is missing".into())),
            Err(why) => return Ok(Err(why)),
        };
        if let Err(why) = table.check(range, frames, plan.encoder.specs.len()) {
            return Ok(Err(format!("its frame table {why}")));
        }
        let found = match believe(keyed_hash(path, &plan.key, beat))? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if found != hash {
            return Ok(Err("its content does not fit the hash in its name".into()));
        }
        table.user_data = Vec::new();
        Ok(Ok((table, fs::symlink_metadata(path)?.len())))
    }
}

/// Splits failures into those that are the file's own (damage, a bad sector, a link that leads nowhere) and
/// those that are not (newer version, no permission, stop).
pub(super) fn believe<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => {
            let errno = error.chain().find_map(|c| c.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
            let own = Fault::of(&error) == Fault::DamagedState
                || matches!(
                    errno,
                    Some(libc::EIO | libc::EBADMSG | libc::EUCLEAN | libc::ELOOP | libc::EISDIR | libc::ENXIO)
                );
            if own { Ok(Err(one_line(&error))) } else { Err(error) }
        }
    }
}

#[cfg(test)]
mod tests;
