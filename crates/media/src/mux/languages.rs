//! Languages of streams: two and three letters of ISO 639, and the form in which a container holds them. Pure.

/// The three-letter code (639-2/T) of each two-letter one (639-1).
const TWO: &str = "aa aar ab abk ae ave af afr ak aka am amh an arg ar ara as asm av ava ay aym az aze ba bak be bel bg bul \
bh bih bi bis bm bam bn ben bo bod br bre bs bos ca cat ce che ch cha co cos cr cre cs ces cu chu cv chv cy cym da dan de deu \
dv div dz dzo ee ewe el ell en eng eo epo es spa et est eu eus fa fas ff ful fi fin fj fij fo fao fr fra fy fry ga gle gd gla \
gl glg gn grn gu guj gv glv ha hau he heb hi hin ho hmo hr hrv ht hat hu hun hy hye hz her ia ina id ind ie ile ig ibo ii iii \
ik ipk io ido is isl it ita iu iku iw heb ja jpn ji yid jv jav ka kat kg kon ki kik kj kua kk kaz kl kal km khm kn kan ko kor \
kr kau ks kas ku kur kv kom kw cor ky kir la lat lb ltz lg lug li lim ln lin lo lao lt lit lu lub lv lav mg mlg mh mah mi mri \
mk mkd ml mal mn mon mo ron mr mar ms msa mt mlt my mya na nau nb nob nd nde ne nep ng ndo nl nld nn nno no nor nr nbl nv nav \
ny nya oc oci oj oji om orm or ori os oss pa pan pi pli pl pol ps pus pt por qu que rm roh rn run ro ron ru rus rw kin sa san \
sc srd sd snd se sme sg sag sh hbs si sin sk slk sl slv sm smo sn sna so som sq sqi sr srp ss ssw st sot su sun sv swe sw swa \
ta tam te tel tg tgk th tha ti tir tk tuk tl tgl tn tsn to ton tr tur ts tso tt tat tw twi ty tah ug uig uk ukr ur urd uz uzb \
ve ven vi vie vo vol wa wln wo wol xh xho yi yid yo yor za zha zh zho zu zul";

/// The bibliographic codes of 639-2 and the terminological ones of the same languages.
const TWICE: [(&str, &str); 20] = [
    ("alb", "sqi"),
    ("arm", "hye"),
    ("baq", "eus"),
    ("bur", "mya"),
    ("chi", "zho"),
    ("cze", "ces"),
    ("dut", "nld"),
    ("fre", "fra"),
    ("geo", "kat"),
    ("ger", "deu"),
    ("gre", "ell"),
    ("ice", "isl"),
    ("mac", "mkd"),
    ("mao", "mri"),
    ("may", "msa"),
    ("per", "fas"),
    ("rum", "ron"),
    ("slo", "slk"),
    ("tib", "bod"),
    ("wel", "cym"),
];

/// The three letters of a language as it is written in `tag` (`en`, `ENG`, `pt-BR`); `None` where it names none.
pub fn three_letters(tag: &str) -> Option<String> {
    let first = tag.trim().split(['-', '_']).next()?.to_ascii_lowercase();
    if !first.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    match first.len() {
        3 => Some(first),
        2 => {
            let mut words = TWO.split_ascii_whitespace();
            while let (Some(two), Some(three)) = (words.next(), words.next()) {
                if two == first {
                    return Some(three.into());
                }
            }
            None
        }
        _ => None,
    }
}

/// Returns whether two tags name the same language, however they are written.
pub fn same(a: &str, b: &str) -> bool {
    let terminological = |tag: &str| {
        let code = three_letters(tag)?;
        Some(TWICE.iter().find(|(old, _)| *old == code).map_or(code, |(_, new)| (*new).to_owned()))
    };
    a.eq_ignore_ascii_case(b) || terminological(a).is_some_and(|a| Some(a) == terminological(b))
}

/// Returns whether a tag says more than the language (`pt-BR`).
pub fn has_region(tag: &str) -> bool {
    tag.contains(['-', '_'])
}

/// The tag as a container holds it: MP4 and MOV have room for three letters, Matroska for any tag. `None` when there is
/// nothing that it could hold.
pub fn held(muxer: &str, tag: &str) -> Option<String> {
    match muxer {
        "mp4" | "mov" => three_letters(tag),
        _ => Some(tag.to_owned()),
    }
}

/// A stream's language, where it tells one.
pub fn of(stream: &ffmpeg_next::Stream<'_>) -> Option<String> {
    let language = crate::demux::streams::metadata(stream, "language")?;
    (!language.is_empty() && !language.eq_ignore_ascii_case("und")).then_some(language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_in_three_letters() {
        let pairs: Vec<&str> = TWO.split_ascii_whitespace().collect();
        assert!(pairs.len().is_multiple_of(2) && pairs.len() > 360);
        assert!(pairs.chunks(2).all(|pair| pair[0].len() == 2 && pair[1].len() == 3));
        for (tag, code) in
            [("en", "eng"), ("DE", "deu"), ("ger", "ger"), ("pt-BR", "por"), (" zh_Hans", "zho"), ("qaa", "qaa")]
        {
            assert_eq!(three_letters(tag).as_deref(), Some(code), "{tag}");
        }
        for tag in ["", "xx", "e1", "english", "x", "12", "ü", "a b"] {
            assert_eq!(three_letters(tag), None, "{tag}");
        }
        assert!(same("ger", "de") && same("fre", "FRA") && same("xx", "XX") && same("pt-BR", "por"));
        assert!(!same("eng", "deu") && !same("xx", "yy"));
        assert_eq!(held("matroska", "pt-BR").as_deref(), Some("pt-BR"));
        assert_eq!(held("mov", "pt-BR").as_deref(), Some("por"));
    }
}
