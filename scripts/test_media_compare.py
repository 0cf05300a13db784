#!/usr/bin/env python3
"""Shows that media_compare catches what it is there for: a right output passes, each wrong one fails for its reason.

    python3 scripts/test_media_compare.py"""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import daemon_runs
import sample_video
from media_compare import compare

UP = "scale=iw*2:ih*2:flags=bicubic"
ENCODE = ["-c:v:0", "libx264", "-crf", "14", "-preset", "veryfast", "-threads", "2"]


def ffmpeg(*args):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, args)], check=True, timeout=60)


@unittest.skipUnless(shutil.which("ffmpeg") and shutil.which("ffprobe"), "ffmpeg is not installed")
class Compare(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="upscaled-compare-"))
        cls.mkv = sample_video.make(cls.folder / "film.mkv", seconds=2.0)
        cls.mp4 = sample_video.make(cls.folder / "film.mp4", seconds=2.0)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def fake(self, source, name="out", graph=UP, maps=("-map", "0"), extra=(), inputs=(), encode=ENCODE):
        """An output as a right program would write it, but for what the arguments change."""
        target = self.folder / f"{name}{source.suffix}"
        # our MP4's own chapter track is written anew from the chapters
        drop = ("-map", "-0:d?") if source.suffix == ".mp4" else ()
        ffmpeg("-copyts", "-noautorotate", "-i", source, *inputs, *maps, *drop, "-c", "copy", "-vf", graph, *encode,
               "-fps_mode", "passthrough", "-enc_time_base:v", "-1", "-avoid_negative_ts", "disabled", *extra, target)  # fmt: skip
        return target

    def fails(self, source, target, what, **options):
        faults = compare(source, target, **options).faults
        self.assertTrue(any(f.startswith(what + ":") for f in faults), f"wanted a fault of {what}, got {faults}")

    def test_right_outputs_pass(self):
        for source in (self.mkv, self.mp4):
            verdict = compare(source, self.fake(source))
            self.assertEqual(verdict.faults, [])
            self.assertGreater(verdict.psnr[0], 35)

    def test_lost_frame(self):
        self.fails(self.mkv, self.fake(self.mkv, graph=f"select='not(eq(n,20))',{UP}"), "frames")

    def test_last_frame_lost(self):
        self.fails(self.mp4, self.fake(self.mp4, graph=f"select='lt(n,47)',{UP}"), "frames")

    def test_moved_time(self):
        graph = f"setpts='if(eq(N,20),PTS+0.002/TB,PTS)',{UP}"
        self.fails(self.mkv, self.fake(self.mkv, graph=graph), "pts")

    def test_moved_by_one_tick_in_mp4(self):
        graph = f"setpts='if(eq(N,20),PTS+1,PTS)',{UP}"
        self.fails(self.mp4, self.fake(self.mp4, graph=graph), "pts")

    def test_another_frame_in_its_place(self):
        # frame 30 shows what frame 10 shows: count and times are right
        graph = f"[0:v]split[a][b];[a][b]freezeframes=first=30:last=30:replace=10,{UP}"
        self.fails(self.mkv, self.fake(self.mkv, graph=graph), "pixels")

    def test_frames_shifted_against_their_times(self):
        graph = f"tpad=start=1:start_mode=clone,trim=end_frame=48,{UP}"
        with_times = self.fake(self.mp4, graph=graph + ",setpts=PTS")
        self.fails(self.mp4, with_times, "pixels")

    def test_missing_streams(self):
        self.fails(self.mkv, self.fake(self.mkv, maps=("-map", "0", "-map", "-0:a:1")), "streams")
        self.fails(self.mkv, self.fake(self.mkv, maps=("-map", "0", "-map", "-0:s")), "streams")
        self.fails(self.mkv, self.fake(self.mkv, maps=("-map", "0", "-map", "-0:t")), "streams")

    def test_a_named_loss_passes(self):
        target = self.fake(self.mkv, maps=("-map", "0", "-map", "-0:s"))
        self.assertEqual(compare(self.mkv, target, losses=["subtitle stream 3 cannot be kept"]).faults, [])
        self.fails(self.mkv, target, "streams", losses=["attachment cannot be kept"])

    def test_swapped_audio(self):
        maps = ("-map", "0:v", "-map", "0:a:1", "-map", "0:a:0", "-map", "0:s", "-map", "0:t")
        self.fails(self.mkv, self.fake(self.mkv, maps=maps), "language")

    def test_transcoded_audio(self):
        self.fails(self.mkv, self.fake(self.mkv, extra=("-c:a:1", "flac")), "streams")

    def test_audio_cut_short(self):
        self.fails(self.mkv, self.fake(self.mkv, extra=("-t", "1.5")), "copy")

    def test_lost_chapter(self):
        self.fails(self.mkv, self.fake(self.mkv, extra=("-map_chapters", "-1")), "chapters")

    def test_moved_chapter(self):
        meta = self.folder / "chapters.txt"
        meta.write_text(sample_video.metadata(2.0).replace("END=666", "END=640").replace("START=666", "START=640"))
        moved = self.fake(self.mkv, inputs=("-i", meta), extra=("-map_chapters", "1"))
        self.fails(self.mkv, moved, "chapters")

    def test_renamed_chapter(self):
        meta = self.folder / "chapters2.txt"
        meta.write_text(sample_video.metadata(2.0).replace("Part 2", "Part two"))
        self.fails(self.mkv, self.fake(self.mkv, inputs=("-i", meta), extra=("-map_chapters", "1")), "chapters")

    def test_audio_offset(self):
        maps = ("-map", "0:v", "-map", "1:a", "-map", "0:s", "-map", "0:t")
        for offset in ("0.005", "-0.015"):
            late = self.fake(self.mkv, inputs=("-itsoffset", offset, "-i", self.mkv), maps=maps)
            self.fails(self.mkv, late, "offset")

    def test_colour_tags(self):
        self.fails(self.mkv, self.fake(self.mkv, extra=("-colorspace", "smpte170m")), "colour")
        self.fails(self.mkv, self.fake(self.mkv, extra=("-color_range", "pc")), "range")

    def test_shifted_colours(self):
        self.fails(self.mkv, self.fake(self.mkv, graph=f"{UP},hue=h=15"), "pixels")
        self.fails(self.mkv, self.fake(self.mkv, graph=f"{UP},shuffleplanes=0:2:1"), "pixels")

    def test_range_converted_but_not_tagged(self):
        graph = f"{UP}:in_range=limited:out_range=full"
        self.fails(self.mkv, self.fake(self.mkv, graph=graph, extra=("-color_range", "tv")), "pixels")

    def test_moved_by_a_pixel(self):
        self.fails(self.mkv, self.fake(self.mkv, graph=f"{UP},crop=iw-2:ih:2:0,pad=iw+2:ih:0:0"), "pixels")

    def test_wrong_size(self):
        graph = "scale=iw*2:ih*2+2"
        self.fails(self.mkv, self.fake(self.mkv, graph=graph), "size")

    def test_sample_aspect(self):
        self.fails(self.mkv, self.fake(self.mkv, graph=f"{UP},setsar=16/15"), "sar")

    def test_depth(self):
        self.fails(self.mkv, self.fake(self.mkv, graph=f"{UP},format=yuv420p10"), "depth")
        self.fails(self.mkv, self.fake(self.mkv, graph=f"{UP},format=yuv422p"), "chroma")

    def test_language_disposition_and_title(self):
        self.fails(self.mkv, self.fake(self.mkv, extra=("-metadata:s:a:1", "language=spa")), "language")
        self.fails(self.mkv, self.fake(self.mkv, extra=("-disposition:s:0", "forced")), "disposition")
        self.fails(self.mkv, self.fake(self.mkv, extra=("-metadata", "title=Another")), "tags")

    def test_rotation(self):
        turned = self.folder / "turned.mp4"
        ffmpeg("-i", self.mp4, "-map", "0:v", "-c", "copy", "-metadata:s:v:0", "rotate=90", turned)
        if not any("displaymatrix" in d for s in __import__("ffmedia").describe(turned)["streams"] for d in s.get("side_data_list", [])):
            ffmpeg("-display_rotation", "90", "-i", self.mp4, "-map", "0:v", "-c", "copy", turned)
        self.assertEqual(compare(turned, self.fake(turned, "kept")).faults, [])
        straight = self.fake(self.mp4, "lost", maps=("-map", "0:v"))
        self.fails(turned, straight, "rotation")

    def test_hdr(self):
        hdr = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
        tags = ["-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-map", "0:v"]
        source, kept, lost = (self.folder / f"hdr-{n}.mkv" for n in ("source", "kept", "lost"))
        x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-crf", "12", "-t", "0.3"]
        ffmpeg("-i", self.mkv, *tags, "-pix_fmt", "yuv420p10le", *x265, "-x265-params", f"log-level=error:{hdr}", source)
        ffmpeg("-copyts", "-i", source, *tags, "-vf", UP, *x265, "-x265-params", f"log-level=error:{hdr}", kept)
        ffmpeg("-copyts", "-i", source, *tags, "-vf", UP, *x265, "-x265-params", "log-level=error", lost)
        self.assertEqual(compare(source, kept).faults, [])
        self.fails(source, lost, "hdr")

    def test_output_is_no_media(self):
        target = self.folder / "text.mkv"
        target.write_text("nothing")
        self.fails(self.mkv, target, "unreadable")


class Names(unittest.TestCase):
    def test_escapes_are_the_programs(self):
        for raw, text in ((b"a b.mkv", "a b.mkv"), (b"#x", "\\x23x"), (b" x ", "\\x20x\\x20"), (b"a\nb", "a\\x0ab"),
                          (b"a\\b", "a\\\\b"), (b"\xff.mp4", "\\xff.mp4"), ("Ü'\".mkv".encode(), "Ü'\".mkv")):  # fmt: skip
            self.assertEqual(daemon_runs.escape(raw), text)
            self.assertEqual(daemon_runs.unescape(text), raw)


if __name__ == "__main__":
    sys.exit(unittest.main())
