#!/usr/bin/env python3
"""Makes a small film of our own with ffmpeg: movement, cuts, B-frames, two audio tracks, subtitles, chapters, an
attachment, colour tags. Same arguments, same file."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

SUBTITLES = """1
00:00:00,200 --> 00:00:00,900
The first line of a very short film

2
00:00:01,000 --> 00:00:01,800
and the second
"""


def metadata(seconds):
    third = max(1, int(seconds * 1000 / 3))
    chapters = "".join(
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={i * third}\nEND={(i + 1) * third}\ntitle=Part {i + 1}\n" for i in range(3)
    )
    return f";FFMETADATA1\ntitle=Sample film\nartist=upscaled\n{chapters}"


def picture(kind, width, height, rate, seconds):
    """lavfi graph of the pictures."""
    size = f"s={width}x{height}:r={rate}"
    if kind == "still":
        return f"mandelbrot={size}:start_scale=0.4:end_scale=0.4,trim=end_frame=1,loop=loop=-1:size=1:start=0"
    third = seconds / 3
    return (
        # three shots, so that there are cuts: a zoom into a fractal, a test card, cells
        f"mandelbrot={size}:start_scale=0.5:end_scale=0.3:end_pts={int(4000 * seconds)},"
        f"trim=duration={third},setpts=PTS-STARTPTS,format=yuv420p[a];"
        f"testsrc2={size},trim=duration={third},setpts=PTS-STARTPTS,format=yuv420p[b];"
        f"mandelbrot={size}:start_x=-1.25:start_y=0.03:start_scale=0.1:end_scale=0.02:end_pts={int(4000 * seconds)},"
        f"hue=h=90,trim=duration={third * 1.1},setpts=PTS-STARTPTS,format=yuv420p[c];"
        "[a][b][c]concat=n=3"
    )


def make(target, width=320, height=180, rate="24", seconds=3.0, kind="film", extra=()):
    """Writes the film; Matroska, or MP4 (without the attachment) by the name. Raises CalledProcessError."""
    target = Path(target)
    matroska = target.suffix.lower() != ".mp4"
    with tempfile.TemporaryDirectory() as folder:
        srt, meta, note = (Path(folder) / n for n in ("s.srt", "m.txt", "note.txt"))
        srt.write_text(SUBTITLES)
        meta.write_text(metadata(seconds))
        note.write_text("Attached to the film.\n")
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-bitexact"]
        command += ["-f", "lavfi", "-i", picture(kind, width, height, rate, seconds)]
        command += ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
        command += ["-f", "lavfi", "-i", "sine=frequency=660:sample_rate=44100"]
        command += ["-i", srt, "-i", meta, "-map", "0:v", "-map", "1:a", "-map", "2:a", "-map", "3:s"]
        command += ["-map_metadata", "4", "-map_chapters", "4", "-t", str(seconds)]
        command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-bf", "3", "-g", "48", "-threads", "1"]
        command += ["-pix_fmt", "yuv420p", "-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709"]
        command += ["-color_range", "tv", "-c:a:0", "aac", "-b:a", "64k", "-c:a:1", "ac3"]
        command += ["-c:s", "subrip" if matroska else "mov_text"]
        command += ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", "-metadata:s:s:0", "language=deu"]
        command += ["-disposition:a:0", "default", "-disposition:a:1", "0"]
        if matroska:
            command += ["-attach", note, "-metadata:s:t", "mimetype=text/plain", "-metadata:s:t", "filename=note.txt"]
        command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", *extra]
        command += ["-f", "matroska" if matroska else "mp4", f"file:{target}"]
        subprocess.run([str(c) for c in command], check=True)
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="file to write, .mkv or .mp4")
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--rate", default="24")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--kind", choices=("film", "still"), default="film")
    args = parser.parse_args()
    width, height = (int(n) for n in args.size.split("x"))
    try:
        make(args.output, width, height, args.rate, args.seconds, args.kind)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"ffmpeg could not make {args.output}: {error}")


if __name__ == "__main__":
    main()
