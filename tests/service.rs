//! The video service: the real program, asked by both of its contracts as their clients ask it.

#[path = "service/away.rs"]
mod away;
#[allow(dead_code)] // shared with the other tests, which use the rest
mod common;
#[path = "service/contract.rs"]
mod contract;
#[path = "common/crowds.rs"]
mod crowds;
#[path = "service/current.rs"]
mod current;
#[path = "service/delivery.rs"]
mod delivery;
#[path = "service/kit.rs"]
mod kit;
#[path = "service/lives.rs"]
mod lives;
#[path = "service/origin.rs"]
mod origin;
#[path = "service/original.rs"]
mod original;
#[path = "service/payloads.rs"]
mod payloads;
#[path = "service/planted.rs"]
mod planted;
#[path = "service/several.rs"]
mod several;
#[path = "service/stalls.rs"]
mod stalls;
#[path = "service/store.rs"]
mod store;
#[path = "service/uploads.rs"]
mod uploads;
