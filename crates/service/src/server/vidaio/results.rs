//! Results of requests: opened in folders that this program alone writes to, and held against what the record says of them.

use std::fs::{File, Metadata};
use std::io::Seek;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

use upscaled_core::fault::one_line;
use upscaled_jobs::state::requests::RequestRecord;

use super::service::{VidaioService, blocking, locked};

/// What a file looked like: it changes with every write.
pub(super) type Mark = [i64; 6];

fn mark(meta: &Metadata) -> Mark {
    let [device, inode, length] = [meta.dev(), meta.ino(), meta.len()].map(|number| number as i64);
    [device, inode, length, meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]
}

/// BLAKE3 of all bytes, in hex.
pub(super) fn hash_of(file: &File) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).context("reading a result")?;
    Ok(hasher.finalize().to_hex().to_string())
}

impl VidaioService {
    /// The result of a request that has ended well, if it is what was made.
    pub(super) async fn result(&self, record: &RequestRecord) -> Option<File> {
        let finished = record.finished.clone()?;
        let (requests, key) = (self.requests.clone(), record.key.clone());
        let opened = blocking(move || {
            let file = requests.result(&key, &finished.output)?;
            file.map(|file| anyhow::Ok((file.metadata()?, file))).transpose()
        });
        let (meta, file) = match opened.await {
            Ok(opened) => opened?,
            Err(error) => {
                tracing::error!("request {}: its result: {}", record.key, one_line(&error));
                return None;
            }
        };
        if meta.len() != finished.bytes {
            return None;
        }
        let seen = locked(&self.seen).get(&record.key).copied();
        let Some(hash) = finished.hash.filter(|_| seen != Some(mark(&meta))) else { return Some(file) };
        let compared = blocking(move || Ok((hash_of(&file)? == hash, file))).await;
        match compared {
            Ok((true, file)) => {
                self.saw(&record.key, &meta);
                (&file).rewind().ok().map(|()| file)
            }
            _ => {
                tracing::error!("request {}: its result is not what was made any more", record.key);
                None
            }
        }
    }

    /// The bytes of a result that looks like this are those of the record.
    pub(super) fn saw(&self, key: &str, meta: &Metadata) {
        locked(&self.seen).insert(key.to_owned(), mark(meta));
    }
}
