//! The image worker and its client: the real program, asked over HTTP as other programs ask it.

#[path = "worker/answers.rs"]
mod answers;
#[path = "worker/client.rs"]
mod client;
#[allow(dead_code)] // films are made there too, and none is needed here
mod common;
#[path = "worker/crowd.rs"]
mod crowd;
#[path = "common/crowds.rs"]
mod crowds;
#[path = "worker/diffusion.rs"]
mod diffusion;
#[path = "worker/dying.rs"]
mod dying;
#[path = "worker/film.rs"]
mod film;
#[path = "worker/formats.rs"]
mod formats;
#[path = "worker/kit.rs"]
mod kit;
#[path = "worker/manifests.rs"]
mod manifests;
#[path = "worker/refusals.rs"]
mod refusals;
#[path = "worker/stalls.rs"]
mod stalls;
