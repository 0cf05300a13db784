//! One job, restartable at any line: plan, resume, seal, assemble, publish, finish.

pub mod bench;
pub mod checkpointer;
pub mod fingerprint;
pub mod finish;
pub mod frame_memory;
pub mod order;
pub mod output;
pub mod parts;
mod payload;
pub mod planner;
pub mod profile;
pub mod publish;
pub mod reporter;
pub mod resume;
pub mod runner;
pub mod space;
pub mod standby;
pub mod still;

#[cfg(test)]
mod tests;
