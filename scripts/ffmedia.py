"""What ffprobe and ffmpeg say of a file, as plain values: streams, exact frame times, packets, chapters, PSNR."""

import json
import os
import re
import subprocess
from fractions import Fraction
from functools import lru_cache

# Reads of one file may take this long, in seconds.
PATIENCE = 1800


class ProbeFailed(Exception):
    """ffprobe or ffmpeg could not read a file; the message is theirs."""


def name(path):
    """A file name that ffmpeg takes for nothing else (dashes, colons, percent signs). Undecodable bytes survive."""
    return "file:" + os.fspath(path)


def run(command):
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return done.returncode, out, err


@lru_cache(maxsize=1)
def passthrough():
    """The option that keeps every frame: its name changed with ffmpeg 5.1."""
    _, out, _ = run(["ffmpeg", "-version"])
    found = re.search(r"version n?(\d+)\.(\d+)", out)
    old = found and (int(found[1]), int(found[2])) < (5, 1)
    return ["-vsync", "passthrough"] if old else ["-fps_mode", "passthrough"]


def compact(line):
    """The fields of a line of ffprobe's `compact=nk=0:p=0`."""
    fields = {}
    for part in line.split("|"):
        key, _, value = part.partition("=")
        if value:
            fields.setdefault(key, value)
    return fields


def number(text):
    return None if text in (None, "N/A", "") else int(text)


def ratio(text, zero=None):
    """`16:9`, `30000/1001` or `0.5` as a fraction; `zero` when unknown."""
    if text in (None, "N/A", ""):
        return zero
    a, _, b = text.replace("/", ":").partition(":")
    value = Fraction(a) if not b else (Fraction(int(a), int(b)) if int(b) else None)
    return value if value else zero


def describe(path):
    """Streams, format and chapters. Raises ProbeFailed when the file is no media."""
    command = ["ffprobe", "-v", "error", "-show_data_hash", "md5", "-show_streams", "-show_format", "-show_chapters"]
    code, out, err = run(command + ["-of", "json", name(path)])
    if code != 0:
        raise ProbeFailed(err.strip().splitlines()[-1] if err.strip() else f"ffprobe ended with {code}")
    found = json.loads(out)
    streams = found.get("streams", [])
    for stream in streams:
        stream.setdefault("disposition", {})
        stream["tags"] = {k.lower(): v for k, v in stream.get("tags", {}).items()}
        stream["kind"] = stream.get("codec_type", "unknown")
        if stream["kind"] == "video" and stream["disposition"].get("attached_pic"):
            stream["kind"] = "cover"
    form = found.get("format", {})
    form["tags"] = {k.lower(): v for k, v in form.get("tags", {}).items()}
    return {"streams": streams, "format": form, "chapters": found.get("chapters", [])}


def time_base(stream):
    return Fraction(stream["time_base"])


FRAME_FIELDS = "best_effort_timestamp,pts,pkt_duration,duration,width,height,pix_fmt,interlaced_frame"


def frames(path, index, threads=None):
    """Every frame the decoder delivers: list of (ticks or None, width, height, interlaced), and what it complained of."""
    command = ["ffprobe", "-v", "error"] + (["-threads", str(threads)] if threads else [])
    command += ["-select_streams", str(index), "-show_frames", "-show_entries", f"frame={FRAME_FIELDS}"]
    code, out, err = run(command + ["-of", "compact=nk=0:p=0", name(path)])
    found = []
    for line in out.splitlines():
        f = compact(line)
        if "width" in f:
            ticks = number(f.get("best_effort_timestamp", f.get("pts")))
            found.append((ticks, int(f["width"]), int(f["height"]), f.get("interlaced_frame") == "1"))
    return found, err.strip().splitlines()


def first_frame(path, index):
    """All that ffprobe says of the first frame, side data among it; {} when there is none."""
    # Leading packets may be cut away by an edit list, or damaged: then more is read
    for interval in (["-read_intervals", "%+#8"], ["-read_intervals", "%+#400"], []):
        command = ["ffprobe", "-v", "error", "-select_streams", str(index), *interval, "-show_frames"]
        _, out, _ = run(command + ["-of", "json", name(path)])
        try:
            found = json.loads(out).get("frames", [])
        except ValueError:
            found = []
        found = [f for f in found if f.get("media_type") == "video"]
        if found:
            return found[0]
    return {}


def packets(path):
    """stream index -> list of (pts, dts, duration, size, flags, md5), in file order."""
    command = ["ffprobe", "-v", "error", "-show_data_hash", "md5", "-show_packets", "-show_entries"]
    command += ["packet=stream_index,pts,dts,duration,size,flags,data_hash", "-of", "compact=nk=0:p=0", name(path)]
    _, out, _ = run(command)
    found = {}
    for line in out.splitlines():
        f = compact(line)
        if "stream_index" not in f:
            continue
        row = (number(f.get("pts")), number(f.get("dts")), number(f.get("duration")))
        row += (number(f.get("size")), f.get("flags", ""), f.get("data_hash"))
        found.setdefault(int(f["stream_index"]), []).append(row)
    return found


def decoded_audio(path, index):
    """Hash and length of an audio stream as it sounds."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", name(path), "-map", f"0:{index}", "-c:a", "pcm_s16le"]
    _, out, _ = run(command + ["-f", "hash", "-hash", "md5", "-"])
    return out.strip()


def mended(ticks):
    """Timestamps as a decoder loop must repair them: missing, doubled or backward ones become previous + 1."""
    out, count = [], 0
    for tick in ticks:
        if tick is None or (out and tick <= out[-1]):
            tick = (out[-1] + 1) if out else 0
            count += 1
        out.append(tick)
    return out, count


def planar(pix_fmt):
    """Chroma layout and depth of a pixel format: ('420', 8). RGB counts as 444, grey as 420."""
    f = pix_fmt
    known = re.search(r"(9|10|12|14|16)(le|be)?$", f)
    depth = int(known[1]) if known else 8
    if f.startswith(("p010", "p016")):
        return "420", 10
    if f.startswith(("nv12", "nv21")):
        return "420", 8
    if f.startswith("x2") or f.startswith(("rgb48", "bgr48", "rgba64", "bgra64")):
        return "444", 16 if "x2" not in f else 10
    chroma = re.search(r"(4\d\d)p", f)
    if chroma:
        return chroma[1], depth
    if f.startswith(("yuyv", "uyvy", "yvyu")):
        return "422", 8
    if f.startswith(("gray", "mono", "ya")):
        return "420", depth
    return "444", depth


def is_rgb(pix_fmt):
    return bool(re.match(r"(rgb|bgr|gbr|argb|abgr|0rgb|0bgr|pal8|x2rgb|x2bgr|rgba|bgra)", pix_fmt))


SITING = {"left": (0, 128), "topleft": (0, 0), "center": (128, 128), "top": (128, 0)}


def comparison(source, output, src, out, size, full_range, interlaced, threads=None, limit=None):
    """PSNR of every frame of `output`, scaled down to `size`, against the same frame of `source`, paired by count.

    `src` and `out` are the stream dictionaries. Samples are compared in the output's own layout and depth, without
    any change of range. Gives a list of (mse_y, mse_u, mse_v) a frame and the peak code value."""
    chroma, depth = planar(out["pix_fmt"])
    form = f"yuv{chroma}p" + ("" if depth == 8 else f"{depth}le")
    width, height = size
    span = "full" if full_range else "limited"
    h, v = SITING.get(src.get("chroma_location", "left"), SITING["left"])
    siting = f":in_h_chr_pos={h}:in_v_chr_pos={v}:out_h_chr_pos={h}:out_v_chr_pos={v}" if chroma == "420" else ""
    scale = f"scale={width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int"
    from_source = scale + ("" if is_rgb(src["pix_fmt"]) else f":in_range={span}{siting if planar(src['pix_fmt'])[0] == '420' else ''}")
    from_source += f":out_range={span}"
    if is_rgb(src["pix_fmt"]):
        matrix = {"bt709": "bt709", "smpte170m": "bt601", "bt470bg": "bt601"}.get(out.get("color_space"), "bt601")
        from_source += f":out_color_matrix={matrix}"
    if interlaced:
        from_source = "bwdif=mode=send_frame:parity=auto:deint=interlaced," + from_source
    chains = [
        (source, src, from_source, threads),
        (output, out, f"{scale}:in_range={span}:out_range={span}{siting}", None),
    ]
    writers, ends = [], []
    try:
        for path, stream, chain, count in chains:
            reading, writing = os.pipe()
            ends.append(reading)
            command = ["ffmpeg", "-v", "quiet", "-nostdin"] + (["-threads", str(count)] if count else [])
            command += ["-noautorotate", "-i", name(path), "-map", f"0:{stream['index']}", "-vf", f"{chain},format={form}"]
            command += passthrough() + (["-frames:v", str(limit)] if limit else [])
            command += ["-f", "rawvideo", "-pix_fmt", form, f"pipe:{writing}"]
            writers.append(subprocess.Popen(command, pass_fds=[writing], stdin=subprocess.DEVNULL))
            os.close(writing)
        raw = ["-f", "rawvideo", "-pixel_format", form, "-video_size", f"{width}x{height}", "-framerate", "25"]
        command = ["ffmpeg", "-v", "error", "-nostdin"]
        for end in ends:
            command += raw + ["-i", f"pipe:{end}"]
        command += ["-lavfi", "[1:v][0:v]psnr=stats_file=-:shortest=1", "-f", "null", "-"]
        done = subprocess.run(command, capture_output=True, pass_fds=ends, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    finally:
        for end in ends:
            os.close(end)
        for writer in writers:
            writer.kill() if writer.poll() is None and len(ends) < 2 else None
            writer.wait()
    rows = []
    for line in done.stdout.decode(errors="replace").splitlines():
        f = dict(part.split(":", 1) for part in line.split() if ":" in part)
        if "mse_y" in f:
            rows.append(tuple(float(f.get(f"mse_{p}", "nan")) for p in "yuv"))
    if not rows:
        raise ProbeFailed("no frame could be compared: " + done.stderr.decode(errors="replace").strip()[-200:])
    return rows, (1 << depth) - 1


def frame_hashes(path):
    """framemd5 of all streams: pictures and sound decoded, then every packet as it is. A list of lines."""
    lines = []
    for maps, codec in ((["-map", "0:v?", "-map", "0:a?"], []), (["-map", "0", "-map", "-0:t?"], ["-c", "copy"])):
        command = ["ffmpeg", "-v", "error", "-nostdin", "-noautorotate", "-copyts", "-i", name(path), *maps]
        code, out, err = run(command + ["-copy_unknown", *codec, *passthrough(), "-f", "framemd5", "-"])
        if code != 0:
            raise ProbeFailed(f"framemd5 of {path}: {err.strip()[-300:]}")
        lines += [line for line in out.splitlines() if not line.startswith("#software")]
    return lines
