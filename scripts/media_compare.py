#!/usr/bin/env python3
"""Compares an upscaled file with its source: frames, exact times, size, streams, chapters, tags, pixels.

    media_compare.py SOURCE OUTPUT [--scale 2]

Exit code 0 when everything holds. Times are compared as fractions. Allowed are: one shift common to all streams;
1 ms where the output is Matroska (its ticks) and one tick of the stream's own time base elsewhere for copied
streams; for damaged sources other pixels (25 dB) and repaired sound."""

import argparse
import math
import re
import sys
from dataclasses import dataclass, field
from fractions import Fraction

import ffmedia

# Wanted against the source, in dB: luma, chroma, and the worst single frame's luma. Pictures that change wildly from
# pixel to pixel (noise, test cards, a few pixels in all) cannot be scaled down again as well as photographs.
LUMA_DB, CHROMA_DB, WORST_DB = 35.0, 30.0, 28.0
# For sources the decoder complains of: concealment depends on the decoder's threads.
DAMAGED_DB = 25.0
# Output pixels compared at most, so that a long film does not take an hour.
PIXELS_MAX = 6e9

MATROSKA_TICK = Fraction(1, 1000)
TECHNICAL_TAGS = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time", "handler_name",
    "vendor_id", "bps", "number_of_frames", "number_of_bytes", "source_id", "alpha_mode", "language", "filename",
    "mimetype", "_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags", "variant_bitrate",
    "id3v2_priv.com.apple.streaming.transportstreamtimestamp", "encoding_params", "software", "timecode",
}  # fmt: skip
STATISTICS = ("bps-", "duration-", "number_of_", "_statistics", "source_id")
DISPOSITIONS = ("default", "dub", "original", "comment", "lyrics", "karaoke", "forced", "hearing_impaired",
                "visual_impaired", "attached_pic", "captions", "descriptions")  # fmt: skip
# What the program may say of a stream kind in its losses.
KIND_WORDS = {"data": ("data", "timecode", "telemetry"), "cover": ("cover", "picture"), "attachment": ("attach",)}


@dataclass
class Verdict:
    """What was found: `faults` fail the file, `notes` explain."""

    frames: int = 0
    shift: Fraction = Fraction(0)
    psnr: tuple = ()
    worst: float = math.nan
    faults: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def expect(self, holds, what, message):
        if not holds:
            self.faults.append(f"{what}: {message}")
        return holds


def plain(value):
    return None if value in (None, "", "unknown", "unspecified", "N/A", "reserved") else value


def coordinates(text):
    """`+40.6892-074.0445/` as numbers: muxers write them with more or fewer digits, and without a height of zero."""
    numbers = [float(n) for n in re.findall(r"[+-][0-9.]+", text)]
    return numbers[:2] or [text]


def milliseconds(value):
    return f"{float(value) * 1000:.4g} ms"


class Comparison:
    def __init__(self, source, output, scale=2, losses=(), psnr=True, damaged=False):
        self.source, self.output, self.scale = source, output, scale
        self.losses = [str(loss).lower() for loss in losses]
        self.want_psnr, self.damaged = psnr, damaged
        self.verdict = Verdict()
        self.src, self.out = ffmedia.describe(source), ffmedia.describe(output)
        self.matroska = "matroska" in self.out["format"].get("format_name", "")
        self.mp4 = "mp4" in self.out["format"].get("format_name", "")
        self.tick = MATROSKA_TICK if self.matroska else Fraction(0)
        self.threads = None

    def named(self, *words):
        """Whether a loss that the program told names one of these."""
        return any(word.lower() in loss for loss in self.losses for word in words if word)

    # Which stream became which

    def kinds(self, info, kind):
        return [s for s in info["streams"] if s["kind"] == kind]

    @staticmethod
    def partner(stream, left, all_there):
        """The output stream that a source stream became, of those that are left; None when it is missing."""
        if stream["kind"] == "data":  # in any order: a timecode track is written anew, behind the others
            return next((s for s in left if s.get("codec_tag_string") == stream.get("codec_tag_string")), None)
        like = lambda s: (s.get("codec_name"), s["tags"].get("language"))
        alike = left and like(left[0]) == like(stream)
        return left[0] if left and (all_there or alike or stream["kind"] == "video") else None

    def pairs(self):
        """(source stream, output stream) of all kinds, in order; faults for what is missing or too much."""
        found = []
        for kind in dict.fromkeys(s["kind"] for s in self.src["streams"] + self.out["streams"]):
            left, theirs = self.kinds(self.out, kind), self.kinds(self.src, kind)
            all_there = len(left) >= len(theirs)
            for stream in theirs:
                became = self.partner(stream, left, all_there)
                if became:
                    left.remove(became)
                    found.append((stream, became))
                    continue
                index, codec = stream["index"], stream.get("codec_name") or stream.get("codec_tag_string")
                words = (f"stream {index}", f"#{index}", f"0:{index}", codec, kind, *KIND_WORDS.get(kind, ()))
                if self.named(*words):
                    self.verdict.notes.append(f"{kind} {index} ({codec}) not kept, named")
                else:
                    self.verdict.faults.append(f"streams: {kind} {index} ({codec}) is missing and no loss names it")
            for stream in left:
                self.verdict.faults.append(f"streams: the source has no {kind} for output stream {stream['index']}")
        return found

    def main_video(self, pairs):
        """The pair that was upscaled: the default one; any of them where several are marked so."""
        videos = [(s, o) for s, o in pairs if s["kind"] == "video"]
        if not videos:
            return None
        default = [p for p in videos if p[0]["disposition"].get("default")] or videos[:1]
        for s, o in default:
            if (o.get("width"), o.get("height")) != (s.get("width"), s.get("height")):
                return s, o
        return default[0]

    # The upscaled stream

    def decode(self, stream):
        """Frames of the source as its decoder delivers them. A damaged source decodes differently with other
        numbers of threads: the first number that fits the output is taken."""
        wanted, _ = self.out_frames
        first = None
        for threads in (None, 1, 2, 4, 8):
            found, errors = ffmedia.frames(self.source, stream["index"], threads)
            if first is None:
                first = (found, errors)
            self.threads = threads
            if len(found) == len(wanted) or not (errors or self.damaged):
                return found, errors
        self.threads = None
        return first

    def video(self, src, out):
        v = self.verdict
        self.out_frames = ffmedia.frames(self.output, out["index"])
        ours, complaints = self.out_frames
        v.expect(not complaints, "output", f"decoder complains: {complaints[:1]}")
        theirs, errors = self.decode(src)
        if errors and not self.damaged:
            self.damaged = True
            v.notes.append("source damaged")
        v.frames = len(ours)
        v.expect(len(ours) == len(theirs), "frames", f"{len(ours)} in the output, {len(theirs)} in the source")
        if not ours or not theirs:
            v.faults.append("frames: nothing to compare")
            return
        self.times(src, out, theirs, ours)
        width, height = theirs[0][1:3]
        changes = any(f[1:3] != (width, height) for f in theirs)
        if changes:
            v.notes.append("source changes size")
        interlaced = any(f[3] for f in theirs)
        if interlaced:
            v.notes.append("interlaced")
            v.expect(not any(f[3] for f in ours), "interlaced", "output frames are marked interlaced")
        chroma, depth = ffmedia.planar(src["pix_fmt"])
        got_chroma, got_depth = ffmedia.planar(out["pix_fmt"])
        nearest = {"410": "420", "411": "422", "440": "444"}.get(chroma, chroma)
        v.expect(got_depth == (8 if depth == 8 else 10), "depth", f"{src['pix_fmt']} became {out['pix_fmt']}")
        v.expect(got_chroma in (nearest, chroma) or chroma in ("411", "440"), "chroma",
                 f"{src['pix_fmt']} became {out['pix_fmt']}")  # fmt: skip
        want = [width * self.scale, height * self.scale]
        for axis in (0, 1):
            if want[axis] % 2 and (got_chroma == "420" or (got_chroma == "422" and axis == 0)):
                want[axis] += 1
        sizes = {f[1:3] for f in ours}
        v.expect(sizes == {tuple(want)}, "size", f"{sorted(sizes)} in place of {tuple(want)}")
        a, b = ffmedia.first_frame(self.source, src["index"]), ffmedia.first_frame(self.output, out["index"])
        self.colours(src, out, a, b)
        self.shape(src, out)
        self.hdr(src, out, a, b)
        if self.want_psnr:
            self.pixels(src, out, (width, height), interlaced)

    def times(self, src, out, theirs, ours):
        v = self.verdict
        ticks, repaired = ffmedia.mended([f[0] for f in theirs])
        if repaired:
            v.notes.append(f"{repaired} source times mended")
        a = [t * ffmedia.time_base(src) for t in ticks]
        if any(f[0] is None for f in ours):
            v.faults.append("pts: output frames without a time")
            return
        b = [f[0] * ffmedia.time_base(out) for f in ours]
        v.shift = b[0] - a[0]
        off = [(abs(y - x - v.shift), i) for i, (x, y) in enumerate(zip(a, b))]
        worst, at = max(off)
        v.expect(worst <= self.tick, "pts", f"frame {at} is {milliseconds(worst)} off ({sum(d > self.tick for d, _ in off)} in all)")
        rises = all(y > x for x, y in zip(b, b[1:]))
        v.expect(rises or self.matroska, "pts", "output times do not rise")
        if v.shift:
            v.notes.append(f"shift {milliseconds(v.shift)}")
        # The container's idea of the length, where it has one that makes sense
        span = a[-1] - a[0]
        gap = max([y - x for x, y in zip(a, a[1:])], default=Fraction(1, 10))
        length, wanted = out.get("duration"), src.get("duration")
        if length and wanted and span <= Fraction(wanted) <= span + 2 * gap + Fraction(1, 10):
            # ffprobe adds up the steps from one decoding time to the next: as many frames shorter as the encoder reorders
            slack = gap * (1 + int(out.get("has_b_frames") or 0)) + self.tick
            v.expect(abs(Fraction(length) - Fraction(wanted)) <= slack, "duration", f"{length} s, source {wanted} s")

    def colours(self, src, out, a, b):
        v = self.verdict
        rgb = ffmedia.is_rgb(src["pix_fmt"])
        full = not rgb and ("pc" in (src.get("color_range"), a.get("color_range")) or src["pix_fmt"].startswith("yuvj"))
        self.full_range = full
        got = out.get("color_range") or b.get("color_range")
        if out["pix_fmt"].startswith("yuvj"):
            got = "pc"
        v.expect((got == "pc") == full, "range", f"{'full' if full else 'limited'} became {got}")
        for key in ("color_primaries", "color_transfer", "color_space"):
            wanted = {plain(src.get(key)), plain(a.get(key))}
            found = {plain(out.get(key)), plain(b.get(key))}
            if rgb and key == "color_space":
                v.expect(found & {"bt709", "smpte170m", "bt470bg"}, "colour", f"RGB became {key} {found}")
                continue
            known, had = found - {None}, wanted - {None}
            v.expect(known <= had and bool(known) == bool(had), "colour", f"{key} {had or '-'} became {known or '-'}")
        wanted, found = plain(src.get("chroma_location")), plain(out.get("chroma_location"))
        if ffmedia.planar(out["pix_fmt"])[0] == "420" and (wanted or "left") != (found or "left"):
            # An MPEG-1 or JPEG source sits in the centre without saying so
            v.faults.append(f"colour: chroma_location {wanted} became {found}")

    def shape(self, src, out):
        v = self.verdict
        a, b = (ffmedia.ratio(s.get("sample_aspect_ratio"), Fraction(1)) for s in (src, out))
        # Matroska holds the display size in whole pixels
        slack = Fraction(2, min(out["width"], out["height"])) * a if self.matroska else Fraction(0)
        v.expect(abs(a - b) <= slack, "sar", f"{a} became {b}")
        matrices = [next((d for d in s.get("side_data_list", []) if "displaymatrix" in d), None) for s in (src, out)]
        parts = []
        for found in matrices:
            words = [w for w in (found or {}).get("displaymatrix", "").replace("\n", " ").split() if not w.endswith(":")]
            numbers = [int(w) for w in words]
            parts.append([numbers[i] for i in (0, 1, 3, 4)] if len(numbers) == 9 else [65536, 0, 0, 65536])
        v.expect(parts[0] == parts[1], "rotation", f"matrix {parts[0]} became {parts[1]}")

    def hdr(self, src, out, a, b):
        v = self.verdict

        def facts(stream, frame):
            found = {}
            for data in stream.get("side_data_list", []) + frame.get("side_data_list", []):
                kind = data.get("side_data_type", "")
                if kind.startswith(("Mastering display", "Content light")):
                    found.setdefault(kind, {k: x for k, x in data.items() if k != "side_data_type"})
            return found

        wanted, found = facts(src, a), facts(out, b)
        for kind, values in wanted.items():
            got = found.get(kind)
            if not got:
                v.faults.append(f"hdr: {kind} is missing")
                continue
            for key, value in values.items():
                x, y = ffmedia.ratio(str(value), Fraction(0)), ffmedia.ratio(str(got.get(key, "0")), Fraction(0))
                step = Fraction(1, 50000) if key[:3] in ("red", "gre", "blu", "whi") else Fraction(1, 100)
                v.expect(abs(x - y) <= step, "hdr", f"{kind} {key} {value} became {got.get(key)}")
        for kind in set(found) - set(wanted):
            if kind.startswith("Content light") and not any(int(x) for x in found[kind].values()):
                continue  # zero stands for unknown
            v.faults.append(f"hdr: {kind} is not in the source")
        dolby = [d for d in out.get("side_data_list", []) if "DOVI" in d.get("side_data_type", "")]
        v.expect(not dolby, "hdr", "a Dolby Vision record was copied to pictures it does not fit")

    def pixels(self, src, out, size, interlaced):
        v = self.verdict
        area = max(1, int(out["width"]) * int(out["height"]))
        limit = max(8, int(PIXELS_MAX / area))
        if v.frames > limit:
            v.notes.append(f"pixels of the first {limit} frames")
        rows, peak = ffmedia.comparison(
            self.source, self.output, src, out, size, self.full_range, interlaced, self.threads,
            limit if v.frames > limit else None)  # fmt: skip
        wanted = min(v.frames, limit)
        v.expect(len(rows) >= wanted, "pixels", f"only {len(rows)} of {wanted} frames could be compared")

        def db(mse):
            return 99.0 if mse <= 0 else min(99.0, 10 * math.log10(peak * peak / mse))

        planes = [[r[p] for r in rows if not math.isnan(r[p])] for p in range(3)]
        v.psnr = tuple(db(sum(p) / len(p)) if p else math.nan for p in planes)
        v.worst = min(db(m) for m in planes[0])
        luma, chroma, worst = (DAMAGED_DB, DAMAGED_DB, 0.0) if self.damaged else (LUMA_DB, CHROMA_DB, WORST_DB)
        v.expect(v.psnr[0] >= luma, "pixels", f"luma {v.psnr[0]:.1f} dB, wanted {luma}")
        for letter, value in zip("UV", v.psnr[1:]):
            v.expect(math.isnan(value) or value >= chroma, "pixels", f"{letter} {value:.1f} dB, wanted {chroma}")
        v.expect(v.worst >= worst, "pixels", f"worst frame {v.worst:.1f} dB, wanted {worst}")

    # Everything beside

    def copied(self, pairs, main):
        """Copied streams: same codec, same bytes (or same sound), same times but for the common shift."""
        theirs, ours = ffmedia.packets(self.source), ffmedia.packets(self.output)
        for src, out in pairs:
            if main and src is main[0]:
                continue
            label = f"{src['kind']} {src['index']}"
            self.verdict.expect(src.get("codec_name") == out.get("codec_name"), "streams",
                                f"{label}: {src.get('codec_name')} became {out.get('codec_name')}")  # fmt: skip
            if src["kind"] == "attachment":
                for key in ("filename", "mimetype"):
                    self.verdict.expect(src["tags"].get(key) == out["tags"].get(key), "attachment", f"{label}: {key} changed")
                self.verdict.expect(src.get("extradata_hash") == out.get("extradata_hash"), "attachment", f"{label}: other content")
                continue
            a, b = theirs.get(src["index"], []), ours.get(out["index"], [])
            if src["kind"] == "data" and (src.get("codec_tag_string") == "text" or src.get("codec_name") == "bin_data" and self.src["chapters"]):
                continue  # a chapter track, written anew; the chapters themselves are compared
            self.stream(label, src, out, a, b)

    def stream(self, label, src, out, a, b):
        v = self.verdict
        if src["kind"] == "cover":
            v.expect([p[5] for p in a[:1]] == [p[5] for p in b[:1]], "cover", f"{label}: other picture")
            return
        if src.get("codec_name") == "mov_text":  # gaps are written as empty packets
            a, b = ([p for p in x if p[3] > 2] for x in (a, b))
        shown = [[p for p in x if "D" not in p[4] and p[3]] for x in (a, b)]
        same = [p[5] for p in shown[0]] == [p[5] for p in shown[1]]
        if not same:
            same = [p[5] for p in a] == [p[5] for p in b]
            shown = [a, b] if same else shown
        if not same:
            if src["kind"] == "audio" and ffmedia.decoded_audio(self.source, src["index"]) == ffmedia.decoded_audio(self.output, out["index"]):
                v.notes.append(f"{label}: other packets, same sound")
                self.offset(label, src, out, shown)
                return
            if self.damaged and shown[1] and abs(len(shown[0]) - len(shown[1])) <= 1 + len(shown[0]) // 20:
                v.notes.append(f"{label}: {len(shown[0])} packets became {len(shown[1])}")
                self.offset(label, src, out, shown)
                return
            v.faults.append(f"copy: {label} ({src.get('codec_name')}): {len(shown[0])} packets became {len(shown[1])}, not the same bytes")
            return
        x, y = ffmedia.time_base(src), ffmedia.time_base(out)
        slack = self.tick or max(x, y)
        off = [(abs(q[0] * y - p[0] * x - v.shift), i) for i, (p, q) in enumerate(zip(*shown)) if None not in (p[0], q[0])]
        if off:
            worst, at = max(off)
            v.expect(off[0][0] <= slack, "offset", f"{label}: begins {milliseconds(off[0][0])} off the video")
            v.expect(worst <= slack or off[0][0] > slack, "copy", f"{label}: packet {at} is {milliseconds(worst)} off the video")
        if src["kind"] == "subtitle":
            late = [abs(q[2] * y - p[2] * x) for p, q in zip(*shown) if p[2] and q[2]]
            v.expect(not late or max(late) <= slack, "copy", f"{label}: a line's duration is {milliseconds(max(late, default=0))} off")

    def offset(self, label, src, out, shown):
        """First times relative to the video, where packets cannot be paired: within one packet's length."""
        first = [next((p for p in x if p[0] is not None), None) for x in shown]
        if None in first:
            return
        x, y = ffmedia.time_base(src), ffmedia.time_base(out)
        off = abs(first[1][0] * y - first[0][0] * x - self.verdict.shift)
        slack = max((first[0][2] or 0) * x, (first[1][2] or 0) * y, self.tick)
        self.verdict.expect(off <= slack, "offset", f"{label}: {milliseconds(off)} off the video")

    def labels(self, pairs):
        """Languages, dispositions and other tags of streams and file."""
        v = self.verdict
        marked = {s["kind"] for s in self.src["streams"] if s["disposition"].get("default")}
        for src, out in pairs:
            label = f"{src['kind']} {src['index']}"
            a, b = ((s["tags"].get("language") or "und").lower() for s in (src, out))
            v.expect(a == b, "language", f"{label}: {a} became {b}")
            if src.get("codec_tag_string") == "tmcd":
                continue  # described by the video's tag
            a, b = ({d for d in DISPOSITIONS if s["disposition"].get(d)} for s in (src, out))
            if b - a == {"default"} and src["kind"] not in marked:
                b = b - {"default"}  # a container without such marks: the muxer's own first choice
            v.expect(a == b, "disposition", f"{label}: {sorted(a) or '-'} became {sorted(b) or '-'}")
            self.tags(label, src["tags"], out["tags"])
        self.tags("file", self.src["format"]["tags"], self.out["format"]["tags"])

    def tags(self, label, a, b):
        for key, value in a.items():
            if key in TECHNICAL_TAGS or key.startswith(STATISTICS) or not value.strip():
                continue
            if key.startswith("location") and coordinates(b.get(key, "")) == coordinates(value):
                continue
            if b.get(key, "").strip() != value.strip() and not self.named(key):
                self.verdict.faults.append(f"tags: {label}: {key}={value[:40]!r} became {b.get(key, '')[:40]!r}")

    def chapters(self):
        v = self.verdict
        a, b = self.src["chapters"], self.out["chapters"]
        if not v.expect(len(a) == len(b), "chapters", f"{len(a)} became {len(b)}"):
            return
        slack = Fraction(1, 1000)
        for i, (x, y) in enumerate(zip(a, b)):
            titles = [c.get("tags", {}).get("title") for c in (x, y)]
            v.expect(titles[0] == titles[1], "chapters", f"{i}: title {titles[0]!r} became {titles[1]!r}")
            for edge in ("start", "end"):
                times = [c[edge] * Fraction(c["time_base"]) for c in (x, y)]
                off = abs(times[1] - times[0] - v.shift)
                # The last one ends with the film: containers write the film's own end
                slack_here = Fraction(1, 10) if edge == "end" and i == len(a) - 1 else slack
                v.expect(off <= slack_here, "chapters", f"{i}: {edge} is {milliseconds(off)} off")

    def run(self):
        pairs = self.pairs()
        main = self.main_video(pairs)
        if not main:
            self.verdict.faults.append("streams: no video in the output")
            return self.verdict
        self.video(*main)
        self.copied(pairs, main)
        self.labels(pairs)
        self.chapters()
        return self.verdict


def compare(source, output, **options):
    """A Verdict; what cannot be read at all is a fault of it."""
    try:
        return Comparison(source, output, **options).run()
    except ffmedia.ProbeFailed as error:
        return Verdict(faults=[f"unreadable: {error}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--loss", action="append", default=[], help="what the program said it could not keep")
    args = parser.parse_args()
    verdict = compare(args.source, args.output, scale=args.scale, losses=args.loss)
    print(f"{verdict.frames} frames, PSNR {' '.join(f'{x:.2f}' for x in verdict.psnr)}, worst {verdict.worst:.2f}")
    for note in verdict.notes:
        print("note:", note)
    for fault in verdict.faults:
        print("FAULT:", fault)
    sys.exit(1 if verdict.faults else 0)


if __name__ == "__main__":
    main()
