//! One job, restartable at any line: plan, resume, seal, assemble, publish, finish.

pub mod finish;
pub mod order;
