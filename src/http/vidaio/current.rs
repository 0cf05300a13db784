//! `POST /upscale` of the current contract: up to five clips by path or URL, and a scale; or, as earlier clients ask, one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::files;
use super::service::{Failed, Service, Wish};
use super::shared::{self, Refused};
use crate::base::path_text::escape;
use crate::http::error::ApiError;
use crate::store::requests::Origin;

/// Clips of a request.
const VIDEOS_MAX: usize = 5;

pub async fn post(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let mut body = Body::of(body)?;
    let alone = body.has("video_path") && !body.has("video_paths");
    let videos = match alone {
        true => vec![body.text("video_path", None)],
        false => body.texts("video_paths", None),
    };
    let scale = body.whole("scale", None);
    let outputs = body.texts("output_paths", Some(Vec::new()));
    let task_id = body.text("task_id", Some(""));
    // Model and encoder are the daemon's settings.
    body.text("model", Some(""));
    body.text("codec", Some(""));
    body.whole("cq", Some(35));
    if !(1..=VIDEOS_MAX).contains(&videos.len()) {
        body.complain("video_paths", "too_long", "List should have at least 1 and at most 5 items");
    }
    if !outputs.is_empty() && outputs.len() != videos.len() {
        body.complain("output_paths", "value_error", "There should be as many as in video_paths, or none");
    }
    body.end()?;
    let scale = match scale {
        2 => 2,
        4 => 4,
        _ => return Err(ApiError::new(StatusCode::BAD_REQUEST, "scale must be 2 or 4")),
    };
    let wish = |(at, video): (usize, &String)| wish(&service, video, outputs.get(at).map(String::as_str), scale);
    let wishes = videos.iter().enumerate().map(wish).collect::<Result<Vec<_>, ApiError>>()?;
    let place = service.places.enter()?;
    let id: String = task_id.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    tracing::info!("{} clips are to be {scale} times as large (task {id:?})", wishes.len());
    let work = {
        let service = service.clone();
        // Whoever leaves, it goes on.
        tokio::spawn(async move {
            let turn = service.places.turn().await;
            // Together: while one is upscaled, the next is fetched.
            let all = wishes.into_iter().map(|wish| one(&service, &headers, wish));
            let ends = futures_util::future::join_all(all).await;
            drop(turn);
            drop(place);
            answer(&service, &ends, alone)
        })
    };
    let panicked = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The server failed; its log says why");
    work.await.map(Json).map_err(panicked)
}

/// What became of one clip: its path or its URL.
type End = Result<(String, String), Failed>;

async fn one(service: &Arc<Service>, headers: &HeaderMap, wish: Result<Wish, Failed>) -> End {
    let record = service.fulfil(wish?).await?;
    Ok(match &record.origin {
        Origin::Shared { target, .. } => (escape(target), String::new()),
        _ => (String::new(), files::link(service, &record, headers)),
    })
}

/// What is told of all clips, or of the one that was asked for `alone`.
fn answer(service: &Service, ends: &[End], alone: bool) -> Value {
    let of = |end: &End| match end {
        Ok((path, url)) => [Value::from(path.as_str()), Value::from(url.as_str()), Value::Null],
        Err(failed) => ["".into(), "".into(), failed.words.as_str().into()],
    };
    let mut told = json!({
        "success": ends.iter().all(Result::is_ok),
        "queue_position": null,
        "active_tasks": service.places.active(),
        "queued_tasks": service.places.waiting(),
    });
    let ends: Vec<[Value; 3]> = ends.iter().map(of).collect();
    let names = [("output_path", "output_paths"), ("output_url", "output_urls"), ("error", "errors")];
    for (at, (one, all)) in names.into_iter().enumerate() {
        match (alone, &ends[..]) {
            (true, [end]) => told[one] = end[at].clone(),
            _ => told[all] = ends.iter().map(|end| end[at].clone()).collect(),
        }
    }
    told
}

/// A clip as a wish. A path that cannot be is an error of the whole request; a URL that cannot be, of its clip.
fn wish(service: &Service, video: &str, output: Option<&str>, scale: u32) -> Result<Result<Wish, Failed>, ApiError> {
    let lower = video.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        let wish = Wish {
            identity: format!("url {video}"),
            origin: Origin::Url(video.to_owned()),
            task: None,
            scale,
            max_size_mb: None,
            upload: None,
        };
        return Ok(service.check_url(video).map(|()| wish));
    }
    let refuse = |refused| {
        let words = match refused {
            Refused::Missing => format!("Input file not found: {video}"),
            Refused::Outside => "Paths have to lie in the shared folder".into(),
        };
        ApiError::new(StatusCode::BAD_REQUEST, words)
    };
    let folder = service.settings.shared_folder.as_deref();
    let source = shared::source(folder, video).map_err(refuse)?;
    let target = match output.filter(|output| !output.is_empty()) {
        Some(output) => shared::target(folder, Path::new(output)).map_err(refuse)?,
        None => {
            let stem = source.file_stem().unwrap_or_default().to_os_string();
            let suffix = format!("_upscaled_{scale}x.mp4");
            source.with_file_name(crate::base::file_name::fit(&stem, suffix.as_ref()))
        }
    };
    if target == source {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "The output would replace its input"));
    }
    let meta = std::fs::metadata(&source).map_err(|_| refuse(Refused::Missing))?;
    let stamp = (meta.len(), meta.mtime(), meta.mtime_nsec());
    let identity = format!("file {} {stamp:?} {}", escape(&source), escape(&target));
    let origin = Origin::Shared { source, target };
    Ok(Ok(Wish { identity, origin, task: None, scale, max_size_mb: None, upload: None }))
}
