//! The real program, with everything going wrong that can be made to: planned failures at every fault point, and
//! damage to every file it keeps. Whatever happens, an output is right, or the job has failed with words, the queue
//! goes on, the source is as it was and nothing is left lying about.
//!
//! `UPSCALED_FAULTS=all` makes the walks whole (`make torture`); without it a chosen part of them is done.

mod crowd;
mod damage;
mod disks;
mod dying;
mod hangs;
mod scripts;
mod stage;
mod surface;
mod walk;
mod world;

/// Whether everything is to be tried.
fn everything() -> bool {
    std::env::var("UPSCALED_FAULTS").is_ok_and(|word| word == "all")
}
