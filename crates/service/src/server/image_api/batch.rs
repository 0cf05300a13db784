//! `POST /upscale_batch`: many pictures in, a ZIP of PNGs out, or JSON with links to them.

use std::sync::Arc;

use anyhow::Result;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::server::image_api::archive::{UniqueNames, ZipStream};
use crate::server::image_api::picture::{self, UpscaledPicture};
use crate::server::image_api::request::AdmittedCall;
use crate::server::image_api::{ImageWorker, engines};
use crate::server::kit::error::ApiError;
use crate::server::kit::query::QueryFields;
use crate::server::kit::reply::{self, FileSource};
use crate::server::kit::result_links::Spool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Zip,
    Json,
}

pub(super) async fn post(State(worker): State<Arc<ImageWorker>>, request: Request) -> Result<Response<Body>, ApiError> {
    let usual = if engines::is_diffusion(&worker.model) { Format::Json } else { Format::Zip };
    let format = format(&QueryFields::of(request.uri()), request.headers(), usual);
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let mut call = AdmittedCall::read(&worker, request, "files", true).await?;
    let format = format?;
    let files = std::mem::take(&mut call.form.files);
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    let at_once = worker.queue.asked_at_once();
    let wish = call.wish;
    let results = stream::iter(files.into_iter().map(|file| picture::enlarge(&worker, file, wish))).buffered(at_once);
    let results = std::pin::pin!(results.zip(stream::iter(names)));
    match format {
        Format::Zip => zip(results).await,
        Format::Json => listed(&worker, results, host.as_deref()).await,
    }
}

/// What `?format=` says, else what is accepted, else the usual.
fn format(asked: &QueryFields, headers: &HeaderMap, usual: Format) -> Result<Format, ApiError> {
    match asked.text("format") {
        Some("zip") => return Ok(Format::Zip),
        Some("json") => return Ok(Format::Json),
        Some(_) => return Err(ApiError::new(StatusCode::BAD_REQUEST, "Format must be zip or json")),
        None => {}
    }
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or("").trim());
    let json = kinds.find_map(|kind| match kind {
        "application/zip" => Some(Format::Zip),
        "application/json" => Some(Format::Json),
        _ => None,
    });
    Ok(json.unwrap_or(usual))
}

type Results<'a> =
    std::pin::Pin<&'a mut (dyn stream::Stream<Item = (Result<UpscaledPicture, ApiError>, String)> + Send + 'a)>;

async fn zip(mut results: Results<'_>) -> Result<Response<Body>, ApiError> {
    let mut archive = ZipStream::new().map_err(|error| ApiError::kept(&error))?;
    let mut names = UniqueNames::default();
    let (mut failed, mut lessened) = (Vec::new(), Vec::new());
    let mut total = 0;
    while let Some((made, uploaded)) = results.next().await {
        total += 1;
        match made {
            Ok(made) => {
                let name = names.of(&uploaded);
                archive.add(&name, &made.png).map_err(|error| ApiError::kept(&error))?;
                if !made.losses.is_empty() {
                    lessened.push(json!({"filename": uploaded, "not_kept": made.losses}));
                }
            }
            Err(error) => failed.push(json!({"filename": uploaded, "error": error.reason()})),
        }
    }
    let count = failed.len();
    for (name, list) in [("errors.json", &failed), ("not_kept.json", &lessened)] {
        if !list.is_empty() {
            let text = serde_json::to_vec_pretty(list).unwrap_or_default();
            archive.add(name, &text).map_err(|error| ApiError::kept(&error))?;
        }
    }
    let (file, length) = archive.finish().map_err(|error| ApiError::kept(&error))?;
    let mut response = reply::of(FileSource(file, 0), length, "application/zip");
    let headers = response.headers_mut();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"upscaled.zip\""));
    headers.insert(HeaderName::from_static("x-total"), HeaderValue::from(total));
    headers.insert(HeaderName::from_static("x-successful"), HeaderValue::from(total - count));
    Ok(response)
}

async fn listed(
    worker: &ImageWorker,
    mut results: Results<'_>,
    host: Option<&str>,
) -> Result<Response<Body>, ApiError> {
    let mut spool = Spool::new().map_err(|error| ApiError::kept(&error))?;
    let mut names = UniqueNames::default();
    let mut entries: Vec<Value> = Vec::new();
    let mut successful = 0;
    while let Some((made, uploaded)) = results.next().await {
        let kept = made.and_then(|made| {
            let path = keep(worker, &mut spool, &names.of(&uploaded), &made.png);
            Ok((path.map_err(|error| ApiError::kept(&error))?, made))
        });
        entries.push(match kept {
            Ok((path, made)) => {
                successful += 1;
                let link = host.map_or_else(|| path.clone(), |host| format!("http://{host}{path}"));
                let mut entry = json!({
                    "filename": uploaded,
                    "output_size": format!("{}x{}", made.to.0, made.to.1),
                    "file_size_mb": made.png.len() as f64 / f64::from(1 << 20),
                    "temp_path": link,
                });
                if !made.losses.is_empty() {
                    entry["not_kept"] = json!(made.losses);
                }
                entry
            }
            Err(error) => json!({"filename": uploaded, "error": error.reason()}),
        });
    }
    let total = entries.len();
    Ok(Json(json!({"results": entries, "total": total, "successful": successful})).into_response())
}

fn keep(worker: &ImageWorker, spool: &mut Spool, name: &str, png: &[u8]) -> Result<String> {
    let at = spool.append(png)?;
    worker.links.add(spool, at, png.len() as u64, name, "image/png")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Uri;

    #[test]
    fn the_query_goes_before_what_is_accepted() {
        let chosen = |query: &'static str, accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            format(&QueryFields::of(&Uri::from_static(query)), &headers, Format::Zip).map_err(|e| e.status().as_u16())
        };
        assert_eq!(chosen("/", "*/*"), Ok(Format::Zip));
        assert_eq!(chosen("/", "text/html, application/json;q=0.9"), Ok(Format::Json));
        assert_eq!(chosen("/", "application/zip, application/json"), Ok(Format::Zip));
        assert_eq!(chosen("/?format=json", "application/zip"), Ok(Format::Json));
        assert_eq!(chosen("/?format=zip", "application/json"), Ok(Format::Zip));
        assert_eq!(chosen("/?format=tar", "application/json"), Err(400));
    }
}
