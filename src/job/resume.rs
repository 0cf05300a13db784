//! Going on with a job: what earlier attempts left, as far as it can be trusted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::job::fingerprint;
use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::model::plan::Plan;
use crate::store::frame_table::FrameTable;
use crate::store::job_dir::JobDir;

/// The batches that are sealed: each clip opened, hashed and in agreement with its frame table.
#[derive(Default)]
pub struct Sealed {
    pub tables: BTreeMap<u64, FrameTable>,
    pub clips: BTreeMap<u64, PathBuf>,
}

impl Sealed {
    pub fn frames(&self) -> u64 {
        self.tables.values().map(|t| t.stamps.len() as u64).sum()
    }

    /// The encoder in use: a job that fell back once never goes back.
    pub fn encoder(&self) -> usize {
        self.tables.values().map(|t| t.encoder).max().unwrap_or(0)
    }
}

/// The plan of an earlier attempt, if it still holds for the source. A changed source voids
/// plan and clips, in the log.
pub fn plan(order: &JobOrder, dir: &JobDir, reporter: &Reporter) -> Result<Option<Plan>> {
    let Some(plan) = dir.read_plan()? else { return Ok(None) };
    if fingerprint::check(&order.source, &plan.fingerprint).is_ok() {
        return Ok(Some(plan));
    }
    reporter.remark("the source changed since the job began: starting over");
    dir.clear()?;
    Ok(None)
}

/// Checks every clip. Damaged ones are removed, with a line in the log, and made again.
pub fn sealed(dir: &JobDir, plan: &Plan, reporter: &Reporter) -> Result<Sealed> {
    let found = dir.sealed(plan, &|| reporter.beat())?;
    for rejected in &found.rejected {
        reporter.remark(rejected);
    }
    let mut sealed = Sealed::default();
    for clip in found.clips {
        sealed.clips.insert(clip.index, clip.path);
        sealed.tables.insert(clip.index, clip.table);
    }
    Ok(sealed)
}
