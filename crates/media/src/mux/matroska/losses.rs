//! What of a Matroska file's own ways an output does not keep, in words.

use crate::mux::matroska::facts::{MatroskaTrack, SegmentFacts};

/// What is written of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrittenHeader {
    /// The output is Matroska too.
    pub matroska: bool,
    /// Chapters are written as they are, not as FFmpeg delivers them.
    pub chapters: bool,
    /// Chapters that FFmpeg delivers.
    pub delivered: usize,
    /// Each track's header can be found in the output.
    pub tracks: bool,
}

impl SegmentFacts {
    /// Names it. `kept`: index and track of the streams that are kept, and whether their language is written otherwise.
    pub(crate) fn losses(&self, kept: &[(usize, &MatroskaTrack, bool)], written: WrittenHeader) -> Vec<String> {
        let mut made = Vec::new();
        if self.linked {
            made.push("the link to other files (linked segments): their parts are not in the output".to_owned());
        }
        for name in &self.too_large {
            made.push(format!(
                "whatever the {name} say beyond what FFmpeg reads: they are too large to be looked through"
            ));
        }
        for (index, track, language) in kept {
            let whole = written.matroska && written.tracks;
            if let (false, Some(tag)) = (whole, track.language.as_ref().filter(|tag| !language || tag.contains('-'))) {
                let rest = if *language { ": only the language itself is written" } else { "" };
                made.push(format!("the language tag {tag} of stream {index}{rest}"));
            }
            if !whole && !track.enabled {
                made.push(format!("that stream {index} is switched off (FlagEnabled)"));
            }
            if !whole && track.crop != [0; 4] {
                let [bottom, top, left, right] = track.crop;
                made.push(format!(
                    "the cropping of stream {index} (top {top}, bottom {bottom}, left {left}, right {right}): the whole \
                     picture is shown"
                ));
            }
            if track.combined {
                made.push(format!("that stream {index} is combined with others (TrackOperation)"));
            }
        }
        let Some(chapters) = &self.chapters else { return made };
        if chapters.elsewhere {
            made.push("chapters that play parts of other files (linked segments): those are not in the output".into());
        }
        if written.chapters || chapters.is_plain(written.delivered) {
            return made;
        }
        let told = [
            (chapters.ordered, "the playing order of chapters (ordered edition): the output plays as the file runs"),
            (chapters.editions > 1, "the division of chapters into editions"),
            (chapters.nested, "chapters inside chapters"),
            (chapters.languages, "languages of chapter titles, and titles in further languages"),
            (chapters.hidden, "that chapters are hidden or switched off"),
            (chapters.more, "what chapters say beyond title and times"),
        ];
        made.extend(told.iter().filter(|(there, _)| *there).map(|(_, words)| (*words).to_owned()));
        if chapters.atoms > written.delivered {
            made.push(format!("{} of {} chapters", chapters.atoms - written.delivered, chapters.atoms));
        }
        made
    }
}
