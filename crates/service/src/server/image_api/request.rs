//! What a call asks for: its query and its files, checked in the order that clients know.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::Request;
use axum::http::StatusCode;

use crate::server::image_api::ImageWorker;
use crate::server::image_api::queue::CallSlot;
use crate::server::kit::error::ApiError;
use crate::server::kit::form::UploadForm;
use crate::server::kit::query::QueryFields;

/// What is wanted of each picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UpscaleParams {
    /// 2 or 4.
    pub scale: u32,
    /// Of diffusion models, 64 to 256; others take no notice.
    pub process_size: u32,
}

/// A call that has come in whole and has its place in the queue.
pub(super) struct AdmittedCall {
    pub wish: UpscaleParams,
    pub form: UploadForm,
    pub _place: CallSlot,
}

impl AdmittedCall {
    /// Reads a call's upload to its end, and only then asks for a place.
    ///
    /// # Errors
    /// 422 for ill-typed numbers and a missing file, 400 for numbers out of range; those of
    /// [`crate::server::kit::form::Uploads::read`]; 429 for a full queue; 503 until the model is loaded.
    pub(super) async fn read(
        worker: &Arc<ImageWorker>,
        request: Request,
        field: &'static str,
        many: bool,
    ) -> Result<AdmittedCall, ApiError> {
        let asked = QueryFields::of(request.uri());
        let mut problems = Vec::new();
        let scale = asked.whole("upscale", worker.defaults.upscale.into(), &mut problems);
        let process_size = asked.whole("process_size", worker.defaults.process_size.into(), &mut problems);
        let form = worker.uploads.read(request, field, many, &worker.limits).await?;
        if !problems.is_empty() {
            return Err(ApiError::fields(&problems));
        }
        let refuse = |words: &str| Err(ApiError::new(StatusCode::BAD_REQUEST, words));
        let scale = match scale {
            2 => 2,
            4 => 4,
            _ => return refuse("Upscale factor must be 2 or 4"),
        };
        let Some(process_size) = u32::try_from(process_size).ok().filter(|size| (64..=256).contains(size)) else {
            return refuse("Process size must be between 64 and 256");
        };
        worker.engines()?;
        let place = worker.queue.enter().inspect_err(|_| {
            worker.counts.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(AdmittedCall { wish: UpscaleParams { scale, process_size }, form, _place: place })
    }
}
