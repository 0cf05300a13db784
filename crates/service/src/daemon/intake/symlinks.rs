//! Symbolic links in input/ and output/: which are followed, and which lead to what is not for their makers to choose.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Of a link that is not followed.
pub(crate) const STRANGE_LINK: &str = "a symbolic link that somebody else made, to what is not theirs";

/// Returns whether a symbolic link lies on the way from input/ to a file in it.
pub(crate) fn is_by_link(input: &Path, relative: &Path) -> bool {
    let mut parts = relative.ancestors().filter(|part| !part.as_os_str().is_empty());
    parts.any(|part| input.join(part).symlink_metadata().is_ok_and(|meta| meta.is_symlink()))
}

/// The first link on the way from input/ or output/ to a path in it that is not followed: one that somebody else made, to what
/// is not theirs. What this user may read or write is not for them to choose. Links of this user, of root and of the owner of
/// the folder lead anywhere.
pub(crate) fn strange_link(home: &Path, relative: &Path) -> Option<PathBuf> {
    let owner = fs::metadata(home).ok()?.uid();
    let mut parts = relative.ancestors().filter(|part| !part.as_os_str().is_empty());
    parts.find(|part| is_strange(&home.join(part), owner)).map(Path::to_path_buf)
}

/// `owner`: of input/ or output/.
pub(crate) fn is_strange(path: &Path, owner: u32) -> bool {
    let Ok(link) = fs::symlink_metadata(path) else { return false };
    let (uid, own) = (link.uid(), nix::unistd::geteuid().as_raw());
    let anywhere = [0, own, owner].contains(&uid) || !link.is_symlink();
    !anywhere && fs::metadata(path).is_ok_and(|target| target.uid() != uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::intake::scan::{ScanRules, scan};
    use std::os::unix::fs::symlink;
    use upscaled_core::config::patterns::Patterns;

    #[test]
    fn links_of_others_lead_to_what_is_theirs() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("links_of_others_lead_to_what_is_theirs: only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let (input, away) = (dir.path().join("input"), dir.path().join("away"));
        fs::create_dir_all(&input).unwrap();
        fs::create_dir_all(away.join("theirs")).unwrap();
        let give = |path: &Path, uid| std::os::unix::fs::lchown(path, Some(uid), None).unwrap();
        for (name, uid) in [("ours.mkv", 61_001), ("theirs.mkv", 61_002), ("theirs/b.mkv", 61_001)] {
            fs::write(away.join(name), "film").unwrap();
            give(&away.join(name), uid);
        }
        give(&away.join("theirs"), 61_002);
        give(&input, 61_001);
        for (name, target, uid) in [
            ("1.mkv", "ours.mkv", 61_001),
            ("2.mkv", "ours.mkv", 0),
            ("3.mkv", "ours.mkv", 61_002),
            ("4.mkv", "theirs.mkv", 61_002),
            ("5", "theirs", 61_002),
            ("6", ".", 61_002),
        ] {
            symlink(away.join(target), input.join(name)).unwrap();
            give(&input.join(name), uid);
        }
        let rules = ScanRules {
            input: input.clone(),
            excluded: vec![],
            follow_symlinks: true,
            images: true,
            ignore: Patterns::default(),
        };
        let found = scan(&rules).unwrap();
        let names: Vec<_> = found.files.iter().map(|found| found.relative.clone()).collect();
        assert_eq!(names, ["1.mkv", "2.mkv", "4.mkv", "5/b.mkv"].map(PathBuf::from));
        let mut notes = found.notes.clone();
        notes.sort();
        assert_eq!(notes, ["3.mkv", "6"].map(|name| (PathBuf::from(name), STRANGE_LINK)));
        let strange = |path: &str| strange_link(&input, Path::new(path));
        assert_eq!(strange("6/ours.mkv"), Some("6".into()));
        assert_eq!((strange("5/b.mkv"), strange("1.mkv"), strange("none/x.mkv")), (None, None, None));
    }
}
