//! The payload of a request of the video service, opened once in folders that this program alone writes to, and read by its
//! descriptor from then on: whatever comes to lie under its name is not the client's clip.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::own_folder::path_of;
use upscaled_core::path_text::escape;

use crate::job::order::JobOrder;
use crate::state::requests;

/// Does the work of an order; where it is of a request, on the payload as it is opened now.
pub(super) fn with<T>(order: &JobOrder, work: impl FnOnce(&JobOrder) -> Result<T>) -> Result<T> {
    match held(order)? {
        Some(held) => work(&held.order).map_err(|error| held.named(error)),
        None => work(order),
    }
}

/// The order of a job whose source is held.
struct HeldOrder {
    order: JobOrder,
    /// The source's own path, for words.
    called: String,
    _file: File,
}

/// Opens the payload where the order is of a request; `None` for any other job.
///
/// # Errors
/// [`Fault::Config`] where others could have put it, or the folder of its result, there.
fn held(order: &JobOrder) -> Result<Option<HeldOrder>> {
    let Some(key) = requests::key_of(&order.relative) else { return Ok(None) };
    let depth = order.relative.components().count();
    let (input, output) = (order.source.ancestors().nth(depth), order.target_dir.ancestors().nth(depth - 1));
    let none = || Fault::NotFound.because(format!("there is no file {}", escape(&order.source)));
    let file = requests::open_payload(input.unwrap_or(Path::new("/")), key)?.ok_or_else(none)?;
    requests::make_result_folder(output.unwrap_or(Path::new("/")), key)?;
    let called = escape(&order.source);
    Ok(Some(HeldOrder { order: JobOrder { source: path_of(&file), ..order.clone() }, called, _file: file }))
}

impl HeldOrder {
    /// An error with the source called by its own path.
    fn named(&self, error: anyhow::Error) -> anyhow::Error {
        let words = one_line(&error);
        let at = escape(&self.order.source);
        if words.contains(&at) { Fault::of(&error).because(words.replace(&at, &self.called)) } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use upscaled_core::config::settings::{JobSettings, RunSettings};

    fn order(root: &Path, relative: PathBuf) -> JobOrder {
        JobOrder {
            source: root.join("i").join(&relative),
            target_dir: root.join("o").join(relative.parent().unwrap()),
            job_dir: root.join("o").join(&relative).with_extension("job"),
            relative,
            crowded: false,
            target_file: PathBuf::new(),
            key: "0-1".into(),
            attempt: 1,
            lean: 0,
            together: 1,
            previews: false,
            settings: JobSettings::default(),
            run: RunSettings::default(),
        }
    }

    #[test]
    fn a_payload_is_read_only_where_nobody_else_can_have_put_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(held(&order(root, "film.mkv".into())).unwrap().is_none());
        let order = order(root, requests::job("0a"));
        std::fs::create_dir_all(root.join("i")).unwrap();
        assert_eq!(Fault::of(&held(&order).map(drop).unwrap_err()), Fault::NotFound);
        std::fs::create_dir_all(root.join("i/.requests/0a")).unwrap();
        for folder in ["i/.requests", "i/.requests/0a"] {
            std::fs::set_permissions(root.join(folder), PermissionsExt::from_mode(0o700)).unwrap();
        }
        std::fs::write(&order.source, "clip").unwrap();
        let held_first = held(&order).unwrap().unwrap();
        assert_eq!(std::fs::read(&held_first.order.source).unwrap(), b"clip");
        assert_eq!(root.join("o/.requests/0a").metadata().unwrap().permissions().mode() & 0o777, 0o700);
        // Another file under its name is not it; words tell of the name.
        std::fs::write(root.join("secret"), "secret").unwrap();
        std::fs::remove_file(&order.source).unwrap();
        symlink(root.join("secret"), &order.source).unwrap();
        assert_eq!(std::fs::read(&held_first.order.source).unwrap(), b"clip");
        let error = Fault::BadInput.because(format!("{} is no media", held_first.order.source.display()));
        let named = held_first.named(error);
        assert_eq!(named.to_string(), format!("{} is no media", order.source.display()));
        assert_eq!(Fault::of(&named), Fault::BadInput);
        assert_eq!(Fault::of(&held(&order).map(drop).unwrap_err()), Fault::Config);
        std::fs::remove_file(&order.source).unwrap();
        std::fs::write(&order.source, "clip").unwrap();
        std::fs::set_permissions(root.join("i/.requests"), PermissionsExt::from_mode(0o770)).unwrap();
        assert_eq!(Fault::of(&held(&order).map(drop).unwrap_err()), Fault::Config);
        std::fs::rename(root.join("i/.requests"), root.join("i/.moved")).unwrap();
        symlink(".moved", root.join("i/.requests")).unwrap();
        assert_eq!(Fault::of(&held(&order).map(drop).unwrap_err()), Fault::Config);
    }
}
