//! Files of `torch.save` since PyTorch 1.6: a zip archive of a pickle and one entry a storage.
//!
//! Within one folder of any name: `data.pkl`, `data/KEY`, and `byteorder`
//! (pytorch/pytorch, torch/serialization.py). Entries are stored, never compressed.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;

use anyhow::Result;
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::state::{self, StateDict};
use super::weights::{MAX_FILE, damaged, refused};
use super::{pickle, torch_tensor};

/// Most entries of an archive.
const MAX_ENTRIES: usize = 50_000;

/// Whether the file begins as an archive.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Reads the network's state from the bytes of a file.
pub(super) fn read(bytes: &[u8]) -> Result<StateDict> {
    let mut archive = TorchArchive::open(bytes)?;
    if archive.zip.file_names_raw().any(|name| name.windows(6).any(|part| part == b"/code/")) {
        return Err(refused("holds a TorchScript program, not weights; save the network's state_dict()"));
    }
    let main = archive.names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let main = main.map(str::to_owned).ok_or_else(|| refused("is a zip archive without PyTorch's `data.pkl`"))?;
    let folder = main.trim_end_matches("data.pkl");
    if let Some(order) = archive.entry(&format!("{folder}byteorder"))?
        && &bytes[order] != b"little"
    {
        return Err(refused("its numbers are big endian; save it again on an ordinary computer"));
    }
    let pickle = archive.entry(&main)?.ok_or_else(|| damaged("`data.pkl`"))?;
    let pickle = pickle::read(&bytes[pickle])?;
    let mut storages: HashMap<&str, Range<usize>> = HashMap::new();
    state::of_pickle(&pickle)?.load(|view, used| {
        let key = view.storage.key.as_str();
        let values = match storages.get(key) {
            Some(range) => range.clone(),
            None => {
                let range = archive.entry(&format!("{folder}data/{key}"))?;
                let range = range.ok_or_else(|| damaged("the values of a tensor are missing"))?;
                storages.insert(key, range.clone());
                range
            }
        };
        torch_tensor::read(view, &bytes[values], used)
    })
}

struct TorchArchive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// Bytes read so far: entries may overlap, and must not be read for ever.
    read: u64,
}

impl<'a> TorchArchive<'a> {
    fn open(bytes: &'a [u8]) -> Result<TorchArchive<'a>> {
        // Looking for the archive's beginning itself, the reader takes the wrong entry for the first
        // where that is 76 bytes long in the directory (folders of 21 letters).
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip =
            ZipArchive::with_config(config, Cursor::new(bytes)).map_err(|error| damaged(&format!("zip: {error}")))?;
        if zip.len() > MAX_ENTRIES {
            return Err(refused(format!("is a zip archive of more than {MAX_ENTRIES} entries")));
        }
        Ok(TorchArchive { bytes, zip, read: 0 })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.zip.file_names_raw().filter_map(|name| std::str::from_utf8(name).ok())
    }

    /// Where an entry's bytes lie in the file, its checksum verified; `None` when it is absent.
    fn entry(&mut self, name: &str) -> Result<Option<Range<usize>>> {
        let Some(index) = self.zip.index_for_name(name) else { return Ok(None) };
        let wrong = |what: String| damaged(&format!("zip entry {}: {what}", name.escape_default()));
        let mut entry = self.zip.by_index(index).map_err(|error| wrong(error.to_string()))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(refused("its values are compressed, which PyTorch never does; unpack and save it again"));
        }
        let length = entry.size();
        self.read = self.read.saturating_add(length);
        if length > self.bytes.len() as u64 || self.read > MAX_FILE {
            return Err(wrong("claims more bytes than there are".into()));
        }
        let start = entry.data_start().ok_or_else(|| wrong("lies nowhere".into()))?;
        // Read to its end, the entry's checksum is compared.
        let read = std::io::copy(&mut entry.by_ref().take(length + 1), &mut std::io::sink());
        if read.map_err(|error| wrong(error.to_string()))? != length {
            return Err(wrong("ends early".into()));
        }
        let range = usize::try_from(start).ok().and_then(|start| Some(start..start.checked_add(length as usize)?));
        match range {
            Some(range) if range.end <= self.bytes.len() => Ok(Some(range)),
            _ => Err(wrong("ends early".into())),
        }
    }
}
