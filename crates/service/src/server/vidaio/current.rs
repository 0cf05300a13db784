//! `POST /upscale` of the current contract: up to five clips by path or URL, and a scale; or, as earlier clients ask, one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use upscaled_core::path_text::escape;
use upscaled_jobs::state::requests::PayloadOrigin;

use super::body::JsonBody;
use super::files;
use super::service::{RequestError, ServiceRequest, VidaioService, blocking};
use super::shared::{self, PathRefused, SharedClip, SharedTarget};
use crate::server::kit::error::ApiError;

/// Clips of a request.
const VIDEOS_MAX: usize = 5;

pub(super) async fn post(
    State(service): State<Arc<VidaioService>>,
    headers: HeaderMap,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let mut body = JsonBody::of(body)?;
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
    let clips = {
        let service = service.clone();
        let clips = move || Ok(clips(&service, &videos, &outputs, scale));
        blocking(clips).await.map_err(|error| ApiError::kept(&error))??
    };
    let place = service.places.enter()?;
    let id: String = task_id.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    tracing::info!("{} clips are to be {scale} times as large (task {id:?})", clips.len());
    let work = {
        let service = service.clone();
        // Whoever leaves, it goes on.
        tokio::spawn(async move {
            let turn = service.places.turn().await;
            // Together: while one is upscaled, the next is fetched.
            let all = clips.into_iter().map(|clip| one(&service, &headers, clip));
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
type End = Result<(String, String), RequestError>;

async fn one(service: &Arc<VidaioService>, headers: &HeaderMap, clip: Result<Clip, RequestError>) -> End {
    let Clip { wish, called } = clip?;
    let record = service.fulfil(wish).await?;
    let PayloadOrigin::Shared { target, .. } = &record.origin else {
        return Ok((String::new(), files::link(service, &record, headers)));
    };
    let path = record.delivered.as_ref().map_or(target, |delivered| &delivered.path);
    let inside = called.and_then(|(folder, name)| Some(name.join(path.strip_prefix(folder).ok()?)));
    Ok((escape(&inside.unwrap_or_else(|| path.clone())), String::new()))
}

/// What is told of all clips, or of the one that was asked for `alone`.
fn answer(service: &VidaioService, ends: &[End], alone: bool) -> Value {
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

/// A clip that can be worked on.
struct Clip {
    wish: ServiceRequest,
    /// The shared folder's own path, and what its client calls it.
    called: Option<(PathBuf, PathBuf)>,
}

/// All clips of a request. A path that cannot be is an error of the whole request; a URL that cannot be, of its clip.
fn clips(
    service: &VidaioService,
    videos: &[String],
    outputs: &[String],
    scale: u32,
) -> Result<Vec<Result<Clip, RequestError>>, ApiError> {
    let mut places: Vec<(SharedClip, SharedTarget)> = Vec::new();
    let mut clips = Vec::new();
    for (at, video) in videos.iter().enumerate() {
        let output = outputs.get(at).filter(|output| !output.is_empty());
        let lower = video.to_ascii_lowercase();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            let identity = format!("url {video}");
            let wish = wish(identity, PayloadOrigin::Url(video.to_owned()), scale);
            clips.push(service.check_url(video).map(|()| Clip { wish, called: None }));
            continue;
        }
        let jail = shared::open(service.settings.shared_folder.as_deref()).map_err(|why| refuse(video, why))?;
        let source = shared::source(&jail, Path::new(video)).map_err(|why| refuse(video, why))?;
        let beside = || source.path.with_file_name(shared::default_name(&source.path, scale));
        let path = output.map_or_else(beside, PathBuf::from);
        let target = shared::target(&jail, &path, output.is_some()).map_err(|why| match why {
            PathRefused::Missing => {
                ApiError::new(StatusCode::BAD_REQUEST, format!("There is no such folder: {}", path.display()))
            }
            why => refuse(video, why),
        })?;
        let identity = format!("file {} {:?} {}", escape(&source.path), source.stamp, escape(&target.path));
        let (from, to, named) = (source.path.clone(), target.path.clone(), target.named);
        let origin = PayloadOrigin::Shared { source: from, target: to, named };
        let called = jail.called(Path::new(output.unwrap_or(video)));
        clips.push(Ok(Clip { wish: wish(identity, origin, scale), called }));
        places.push((source, target));
    }
    apart(&places).map(|()| clips)
}

fn wish(identity: String, origin: PayloadOrigin, scale: u32) -> ServiceRequest {
    ServiceRequest { identity, origin, task: None, scale, max_size_mb: None, upload: None }
}

fn refuse(video: &str, why: PathRefused) -> ApiError {
    let words = match why {
        PathRefused::Missing => format!("Input file not found: {video}"),
        PathRefused::Outside => "Paths have to lie in the shared folder".into(),
        PathRefused::Failed(words) => format!("{video} cannot be opened: {words}"),
    };
    ApiError::new(StatusCode::BAD_REQUEST, words)
}

/// Makes sure that no result would get the name of a clip, nor that of another result.
fn apart(places: &[(SharedClip, SharedTarget)]) -> Result<(), ApiError> {
    let refuse = |target: &SharedTarget, words: &str| {
        let name = escape(Path::new(target.path.file_name().unwrap_or_default()));
        Err(ApiError::new(StatusCode::BAD_REQUEST, format!("{words}: {name}; name another one in output_paths")))
    };
    for (at, (source, target)) in places.iter().enumerate() {
        if target.is(source) {
            return refuse(target, "The output would replace its input");
        }
        if places.iter().any(|(other, _)| target.is(other)) {
            return refuse(target, "The output would replace another clip of the request");
        }
        if places[..at].iter().any(|(_, other)| target.is_also(other)) {
            return refuse(target, "Two clips would have the same output");
        }
    }
    Ok(())
}
