//! Which job a person means by a path on the command line.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::base::fault::Fault;
use crate::base::path_text::{escape, unescape};

/// The job's name, relative to `input`, as `base::path_text`. Understood: the path of the file
/// itself, from `here` or absolute; its path within input/; and a name as `queue list` prints it.
pub fn resolve(input: &Path, here: &Path, given: &Path) -> Result<String> {
    let plain = plain(&here.join(given));
    if let Ok(inside) = plain.strip_prefix(input)
        && !inside.as_os_str().is_empty()
    {
        return Ok(escape(inside));
    }
    if given.is_absolute() || given.components().any(|part| part == Component::ParentDir) {
        let (given, input) = (escape(given), escape(input));
        return Err(Fault::NotFound.because(format!("{given} does not lie in the input folder {input}")));
    }
    let printed = given.to_str().filter(|text| text.contains('\\')).and_then(unescape);
    match printed {
        Some(printed) if input.join(given).symlink_metadata().is_err() => Ok(escape(&printed)),
        _ => Ok(escape(&given.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>())),
    }
}

/// Without `.` and `..`, by the letters: a link stays a link, for its own name is the job's.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_name_a_job() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        let input = root.join("input");
        std::fs::create_dir_all(input.join("a")).unwrap();
        std::fs::write(input.join("back\\x41.mkv"), "").unwrap();
        let absolute = input.join("a/film.mkv");
        for (here, given, job) in [
            (&root, Path::new("input/a/film.mkv"), "a/film.mkv"),
            (&root, Path::new("./input/../input/a/film.mkv"), "a/film.mkv"),
            (&root, absolute.as_path(), "a/film.mkv"),
            (&root, Path::new("a/film.mkv"), "a/film.mkv"),
            (&root, Path::new("./film.mkv"), "film.mkv"),
            (&input, Path::new("film.mkv"), "film.mkv"),
            (&root, Path::new("new\\x0aline.mkv"), "new\\x0aline.mkv"),
            (&root, Path::new("back\\x41.mkv"), "back\\\\x41.mkv"),
        ] {
            assert_eq!(resolve(&input, here, given).unwrap(), job, "{given:?}");
        }
        for outside in ["/etc/passwd", "../film.mkv"] {
            let error = resolve(&input, &root, Path::new(outside)).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::NotFound);
        }
    }
}
