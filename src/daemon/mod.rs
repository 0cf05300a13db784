//! daemon

pub mod child;
pub mod control;
mod filesystem;
mod hours;
mod lines;
pub mod notify_systemd;
mod probe;
pub mod progress_log;
mod scan;
mod scheduler;
mod settle;
mod spawn;
mod supervise;
mod watch;

#[cfg(test)]
mod testing;
