//! Results put into the shared folder: never over a file of others, and under one name however often it is tried.
//!
//! The record tells the name, and the size and hash of what gets it, before the file has it. What lies there later is ours
//! only with that size and hash.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::jail::{JailFolder, PartFile};
use upscaled_core::path_text::escape;
use upscaled_jobs::state::requests::{Content, Delivered, PayloadOrigin, RequestRecord, Requests};

use super::shared::{lies, numbered, place};

/// Names that are tried for a result.
const NAMES_MAX: u32 = 1000;
/// Mode of results: their client may be another user.
const MODE: u32 = 0o644;
/// Bytes that are hashed at a time.
const PIECE: usize = 1 << 20;

/// Puts the result of a request into the shared folder, where its clip was named by path and it is not there yet; the
/// record with its place.
///
/// # Errors
/// [`Fault::Conflict`] where the client named a path and another file is there.
pub(super) fn deliver(
    shared: Option<&Path>,
    requests: &Requests,
    mut record: RequestRecord,
    output: &Path,
) -> Result<RequestRecord> {
    let PayloadOrigin::Shared { target, named, .. } = &record.origin else { return Ok(record) };
    let (folder, first) = place(shared, target)?;
    let named = *named;
    let mut from = File::open(output)?;
    let made = content(&mut from)?;
    let own = own_name(&record);
    let mut part: Option<PartFile> = None;
    for name in names(&record, &folder, &first, named) {
        let earlier = record.delivered.clone().filter(|known| known.path == folder.path().join(&name));
        let found = look(&folder, &name, &made, earlier.as_ref())?;
        if found == Lies::Other {
            continue;
        }
        let replaces = earlier.as_ref().and_then(|known| known.replaces.clone().or(Some(known.content.clone())));
        let delivered = Delivered {
            path: folder.path().join(&name),
            content: made.clone(),
            replaces: replaces.filter(|old| *old != made && found == Lies::Earlier),
        };
        if found != Lies::Ours && part.is_none() {
            part = Some(copy(&folder, &own, &mut from, &made)?);
        }
        if record.delivered.as_ref() != Some(&delivered) {
            record.delivered = Some(delivered);
            requests.write(&record)?;
        }
        failpoint::hit("deliver.name")?;
        let placed = match (&mut part, found) {
            (Some(part), Lies::Earlier) => part.replace(&name).map(|()| true)?,
            (Some(part), Lies::Nothing) => part.place_new(&name)?,
            // What a crash between two names of one file left.
            _ => folder.remove(&own).map(|()| true)?,
        };
        failpoint::hit("deliver.named")?;
        if placed {
            return Ok(record);
        }
    }
    Err(taken(&first))
}

/// Looks whether a result could be put where its client wants it, before any work.
///
/// # Errors
/// [`Fault::Conflict`] as [`deliver`].
pub(super) fn check(shared: Option<&Path>, record: &RequestRecord) -> Result<()> {
    let PayloadOrigin::Shared { target, named: true, .. } = &record.origin else { return Ok(()) };
    let (folder, name) = place(shared, target)?;
    let known = record.delivered.as_ref().filter(|known| known.path == folder.path().join(&name));
    let ours = |known: &Delivered| look(&folder, &name, &known.content, Some(known));
    match folder.entry(&name)? {
        Some(_) if known.map(ours).transpose()?.is_none_or(|lies| lies == Lies::Other) => Err(taken(&name)),
        _ => Ok(()),
    }
}

fn taken(name: &OsStr) -> anyhow::Error {
    let name = escape(Path::new(name));
    Fault::Conflict.because(format!(
        "{name} is there already and is another file; move it away, or name another path in output_paths"
    ))
}

/// The names to be tried: the one chosen before goes first.
fn names(record: &RequestRecord, folder: &JailFolder, first: &OsStr, named: bool) -> Vec<OsString> {
    let most = if named { 1 } else { NAMES_MAX };
    let chosen = record.delivered.as_ref().filter(|known| known.path.parent() == Some(folder.path()) && !named);
    let chosen = chosen.and_then(|known| Some(known.path.file_name()?.to_owned()));
    chosen.into_iter().chain((1..=most).map(|n| numbered(first, n))).collect()
}

/// The name of a result on its way. Other records have others, whoever's they are.
fn own_name(record: &RequestRecord) -> OsString {
    format!(".upscaled-{}.part", &blake3::hash(record.secret.as_bytes()).to_hex()[..16]).into()
}

/// What lies under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    Nothing,
    /// The result.
    Ours,
    /// What was put there for this request before.
    Earlier,
    Other,
}

fn look(folder: &JailFolder, name: &OsStr, made: &Content, earlier: Option<&Delivered>) -> Result<Lies> {
    let Some(entry) = folder.entry(name)? else { return Ok(Lies::Nothing) };
    let known = || earlier.into_iter().flat_map(|known| [Some(&known.content), known.replaces.as_ref()]).flatten();
    if !entry.plain || !(entry.bytes == made.bytes || known().any(|known| known.bytes == entry.bytes)) {
        return Ok(Lies::Other);
    }
    let Some(mut file) = lies(folder, name) else { return Ok(Lies::Other) };
    let found = content(&mut file)?;
    Ok(match () {
        () if found == *made => Lies::Ours,
        () if known().any(|known| *known == found) => Lies::Earlier,
        () => Lies::Other,
    })
}

/// Size and hash of a file from its beginning.
fn content(file: &mut File) -> Result<Content> {
    file.rewind()?;
    let (mut hasher, mut bytes, mut piece) = (blake3::Hasher::new(), 0, vec![0; PIECE]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&piece[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Content { bytes, hash: hasher.finalize().to_hex().to_string() })
}

/// A durable copy under a name of its own.
fn copy(folder: &JailFolder, own: &OsStr, from: &mut File, made: &Content) -> Result<PartFile> {
    let what = || "copying the result into the shared folder";
    from.rewind()?;
    let mut part = folder.part(own, 0o600).with_context(what)?;
    let copied = io::copy(&mut from.take(made.bytes), &mut part.file).with_context(what)?;
    if copied != made.bytes {
        return Err(Fault::Io.because("the result changed while it was copied into the shared folder"));
    }
    part.file.flush()?;
    // Best effort: file systems of other systems have no modes of their own.
    let _ = part.file.set_permissions(Permissions::from_mode(MODE));
    failpoint::hit("deliver.copy")?;
    part.sync().with_context(what)?;
    Ok(part)
}

#[cfg(test)]
mod tests;
