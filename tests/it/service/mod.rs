//! The video service: the real program, asked by both of its contracts as their clients ask it.

mod away;
mod contract;
mod current;
mod delivery;
mod kit;
mod lives;
pub(crate) mod origin;
mod original;
mod payloads;
mod planted;
mod several;
mod stalls;
mod store;
mod uploads;
