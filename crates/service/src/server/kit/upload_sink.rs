//! Where the bytes of an upload go as they come: into memory, or onto the disk.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;

use upscaled_core::fault::Fault;

use crate::server::kit::error::ApiError;
use crate::server::kit::result_links::Spool;

/// Bytes that are written to the disk together.
const BLOCK: usize = 256 << 10;

/// An uploaded file on the disk. It has no name there: whatever ends the program, the kernel removes it.
pub struct OnDisk {
    pub file: Arc<std::fs::File>,
    /// BLAKE3 of its bytes.
    pub hash: blake3::Hash,
}

/// Takes the bytes of one file as they come.
pub trait Taker: Sized {
    fn taken(&self) -> u64;
    fn take(&mut self, piece: Bytes) -> impl Future<Output = Result<(), ApiError>> + Send;
}

impl Taker for Vec<u8> {
    fn taken(&self) -> u64 {
        self.len() as u64
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), ApiError> {
        self.extend_from_slice(&piece);
        Ok(())
    }
}

/// A file on its way to the disk, a block at a time.
pub struct Writing {
    spool: Option<Spool>,
    hasher: blake3::Hasher,
    held: Vec<u8>,
    taken: u64,
}

impl Writing {
    /// Nothing yet, on the file system of a folder.
    pub fn begin(folder: &Path) -> Result<Writing, ApiError> {
        let spool = Some(Spool::new_in(folder).map_err(|error| ApiError::kept(&error))?);
        Ok(Writing { spool, hasher: blake3::Hasher::new(), held: Vec::new(), taken: 0 })
    }

    /// Writes what is held, off the loop.
    async fn flush(&mut self) -> Result<(), ApiError> {
        let lost = || ApiError::kept(&Fault::Internal.because("an upload's thread was lost"));
        let (mut spool, mut hasher) = (self.spool.take().ok_or_else(lost)?, std::mem::take(&mut self.hasher));
        let block = std::mem::take(&mut self.held);
        let write = move || {
            hasher.update(&block);
            spool.append(&block).map(|_| (spool, hasher))
        };
        let written = tokio::task::spawn_blocking(write).await.map_err(|_| lost())?;
        let (spool, hasher) = written.map_err(|error| ApiError::kept(&error))?;
        (self.spool, self.hasher) = (Some(spool), hasher);
        Ok(())
    }

    /// The whole file.
    pub async fn end(mut self) -> Result<OnDisk, ApiError> {
        self.flush().await?;
        let spool = self.spool.ok_or_else(|| ApiError::kept(&Fault::Internal.because("an upload has no file")))?;
        Ok(OnDisk { file: spool.file().clone(), hash: self.hasher.finalize() })
    }
}

impl Taker for Writing {
    fn taken(&self) -> u64 {
        self.taken
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), ApiError> {
        self.taken += piece.len() as u64;
        self.held.extend_from_slice(&piece);
        if self.held.len() >= BLOCK { self.flush().await } else { Ok(()) }
    }
}
