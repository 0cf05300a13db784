//! Going on with a job: what earlier attempts left, as far as it can be trusted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use upscaled_core::atomic_file;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::plan::Plan;
use upscaled_engine::planning::choice;

use crate::job::order::JobOrder;
use crate::job::reporter::Reporter;
use crate::job::{fingerprint, planner};
use crate::pipeline::segments::{Segment, chain, end_of};
use crate::state::frame_table::FrameTable;
use crate::state::job_dir::JobDir;
use crate::state::spills::Spill;

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

    /// All that is lost, each once: what the plan knows, what its batches were the first to lose, what the output lost.
    pub fn losses(&self, plan: &Plan, of_output: &[String]) -> Vec<String> {
        let seen = self.tables.values().flat_map(|table| &table.losses);
        let mut losses: Vec<String> = Vec::new();
        for words in plan.info.losses.iter().chain(seen).chain(of_output) {
            if !losses.contains(words) {
                losses.push(words.clone());
            }
        }
        losses
    }

    /// The encoder in use: a job that fell back once never goes back.
    pub fn encoder(&self) -> usize {
        self.tables.values().map(|t| t.encoder).max().unwrap_or(0)
    }
}

/// The plan of an earlier attempt, if it still holds for the source. A changed source voids
/// plan and clips, in the log.
pub fn plan(order: &JobOrder, dir: &JobDir, reporter: &Reporter) -> Result<Option<Plan>> {
    let plan = match dir.read_plan() {
        Err(error) if Fault::of(&error) == Fault::DamagedState => {
            dir.discard()?;
            reporter.forget_remarks();
            reporter.remark(&format!("{}: starting over", one_line(&error)));
            None
        }
        read => read?,
    };
    let Some(plan) = plan else { return Ok(None) };
    match fingerprint::check(&order.source, &plan.fingerprint) {
        Ok(()) => return Ok(Some(plan)),
        Err(error) if Fault::of(&error) != Fault::SourceChanged => return Err(error),
        Err(_) => {}
    }
    dir.discard()?;
    reporter.forget_remarks();
    reporter.remark("the source changed since the job began: starting over");
    Ok(None)
}

/// What to say where TensorRT's engine is not the one that the first clips were made with:
/// engines are built by timing, and others may round otherwise.
pub fn other_engine(plan: &Plan) -> Result<Option<String>> {
    let Some(then) = plan.libraries.iter().find_map(|library| library.strip_prefix(planner::ENGINE)) else {
        return Ok(None);
    };
    let words = "TensorRT's engine for this model is not the one this job began with (the cache folder was emptied, or \
                 its library is another): later clips may differ from earlier ones in the last bit";
    Ok((choice::engine_hash(&plan.engine)?.as_deref() != Some(then)).then(|| words.into()))
}

/// A beat for work that moves bytes.
pub fn beat(reporter: &Reporter) -> Result<()> {
    reporter.beat();
    Ok(())
}

/// Checks every clip. Damaged ones are removed, with a line in the log, and made again.
pub fn sealed(dir: &JobDir, plan: &Plan, reporter: &Reporter) -> Result<Sealed> {
    let found = dir.sealed(plan, &|_| beat(reporter))?;
    for dropped in &found.dropped {
        reporter.remark(dropped);
    }
    let mut sealed = Sealed::default();
    // With a size limit every frame may be needed again: a clip without its frames is worth nothing.
    let spills = if plan.max_size_mb.is_some() { Some(self::spills(dir, plan, reporter)?) } else { None };
    for clip in found.clips {
        if spills.as_ref().is_some_and(|s| end_of(&segments(s, clip.index)) < clip.frames) {
            reporter.remark(&format!("the frames of batch {} are not whole: made again", clip.index));
            atomic_file::remove(&clip.path)?;
            continue;
        }
        sealed.clips.insert(clip.index, clip.path);
        sealed.tables.insert(clip.index, clip.table);
    }
    Ok(sealed)
}

/// Checks every spill. Damaged ones are removed, with a line in the log.
pub fn spills(dir: &JobDir, plan: &Plan, reporter: &Reporter) -> Result<Vec<Spill>> {
    let found = dir.spilled(plan, &|_| beat(reporter))?;
    for dropped in &found.dropped {
        reporter.remark(dropped);
    }
    Ok(found.spills)
}

/// The segments of a batch, first to last without a gap.
pub fn segments(spills: &[Spill], batch: u64) -> Vec<Segment> {
    let of_batch = spills.iter().filter(|s| s.batch == batch);
    chain(of_batch.map(|s| Segment { first: s.first, count: s.count, path: s.path.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::fixture;

    #[test]
    fn another_engine_is_told() {
        let mut plan = fixture::plan();
        assert_eq!(other_engine(&plan).unwrap(), None);
        plan.libraries.push(format!("{}0123", planner::ENGINE));
        assert!(other_engine(&plan).unwrap().is_some_and(|words| words.contains("not the one this job began with")));
    }
}
