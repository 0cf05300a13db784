//! The image worker and its client: the real program, asked over HTTP as other programs ask it.

mod answers;
mod client;
mod crowd;
mod diffusion;
mod dying;
mod film;
mod formats;
mod kit;
mod manifests;
mod refusals;
mod stalls;
