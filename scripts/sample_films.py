"""Small films of our own, one for each thing that a job may meet: other rates, order of frames, fields, depths and
containers. Same arguments, same files."""

import subprocess
from pathlib import Path

import sample_video

EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-threads", "1"]
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20"]
# Noise, so that no frame is like another; fields of an interlaced film are 1/50 s apart.
NOISE = "testsrc2=s={w}x{h}:r={rate},noise=alls=20:allf=t:all_seed=7"
KINDS = {
    "short.mkv": ("25", "", [*X264, "-frames:v", "5"]),
    "single.mp4": ("25", "", [*X264, "-frames:v", "1"]),
    "vfr.mkv": ("50", ",select='not(mod(n\\,7))+gt(mod(n\\,11)\\,6)'", [*X264, "-fps_mode", "vfr", "-bf", "2"]),
    "bframes.mp4": ("25", "", [*X264, "-bf", "8", "-b-pyramid", "normal", "-x264-params", "open-gop=1:keyint=20:b-adapt=0"]),
    "interlaced.ts": ("50", ",interlace=scan=tff,setfield=tff", [*X264, "-flags:v", "+ilme+ildct+bitexact", "-top", "1"]),
    "mpeg2.mpg": ("50", ",interlace=scan=tff,setfield=tff", ["-c:v", "mpeg2video", "-q:v", "4", "-bf", "2", "-flags:v", "+ilme+ildct+bitexact"]),
    "tenbit.mkv": ("24000/1001", ",format=yuv420p10le", [*X264, "-profile:v", "high10", "-bf", "3"]),
    "hevc10.mp4": ("25", ",format=yuv420p10le", ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1:frame-threads=1", "-tag:v", "hvc1"]),
    "yuv444.mov": ("25", ",format=yuv444p", [*X264, "-profile:v", "high444"]),
}  # fmt: skip


def make(folder, size=(320, 180), seconds=3.0, only=None):
    """Writes the films into a folder; those whose encoder ffmpeg lacks are left out. The paths, and the names left
    out."""
    folder, (width, height), made, absent = Path(folder), size, [], []
    encoders = subprocess.run(["ffmpeg", "-hide_banner", "-encoders"], capture_output=True, text=True, check=True).stdout
    for name, (rate, filters, options) in KINDS.items():
        if only and Path(name).stem not in only:
            continue
        if f" {options[options.index('-c:v') + 1]} " not in encoders:
            absent.append(name)
            continue
        # Each field has whole rows of chroma.
        picture = NOISE.format(w=width, h=height // 4 * 4, rate=rate) + (filters if "format=" in filters else filters + ",format=yuv420p")
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-bitexact", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=440"]
        command += ["-t", str(seconds), *EXACT, *options, "-c:a", "ac3" if name.endswith((".mkv", ".ts", ".mpg")) else "aac"]
        subprocess.run([*command, "-shortest", f"file:{folder / name}"], check=True)
        made.append(folder / name)
    if not only or "film" in only:
        made.append(sample_video.make(folder / "film.mkv", width, height, "30000/1001", seconds))
    return made, absent
