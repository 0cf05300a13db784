#!/usr/bin/env python3
"""The daemon's page in a real browser: headless Chromium, driven over its debugging pipe.

A daemon upscales a film of our own; the page is opened as on a desktop and as on a phone, its slider moved by key, mouse
and finger, a job paused and taken up again by its buttons. With --save the pictures of docs/ are made anew."""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import sample_video

FILM = "fractals and cells.mkv"
HERE = Path(__file__).resolve().parent.parent
DESKTOP = {"width": 1200, "height": 1400, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


class Browser:
    """Chromium and one page of it."""

    def __init__(self, program, folder):
        # Chromium reads commands from descriptor 3 and writes to 4, each ended by a zero byte.
        (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()

        def descriptors():
            high = [os.dup2(fd, n) for fd, n in ((read_there, 60), (write_there, 61))]
            for fd, n in zip(high, (3, 4)):
                os.dup2(fd, n)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
             f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=descriptors, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self.reader, self.writer = os.fdopen(read_here, "rb"), os.fdopen(write_here, "wb")
        self.count, self.session, self.errors, self.buffer = 0, None, [], b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.count += 1
        order = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            order["sessionId"] = self.session
        self.writer.write(json.dumps(order).encode() + b"\0")
        self.writer.flush()
        while True:
            while b"\0" not in self.buffer:
                piece = self.reader.read1(1 << 20)
                if not piece:
                    raise RuntimeError("Chromium ended")
                self.buffer += piece
            line, self.buffer = self.buffer.split(b"\0", 1)
            heard = json.loads(line)
            if heard.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(heard["params"]["exceptionDetails"])[:400])
            if heard.get("method") == "Log.entryAdded" and heard["params"]["entry"]["level"] == "error":
                entry = heard["params"]["entry"]
                self.errors.append(f"{entry['text']} ({entry.get('url')})")
            if heard.get("id") == self.count:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']}")
                return heard["result"]

    def ask(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            if time.monotonic() > end:
                shown = self.ask("document.body.innerText")
                raise SystemExit(f"never true: {expression}; errors of the page: {self.errors}; it shows:\n{shown}")
            time.sleep(0.1)
        return value

    def open(self, url, screen):
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.call("Emulation.setTouchEmulationEnabled", enabled=screen["mobile"])
        self.call("Page.navigate", url=url)

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def end(self):
        self.process.terminate()
        self.process.wait()


def check(right, words):
    if not right:
        raise SystemExit(f"WRONG: {words}")
    print(f"ok: {words}")


def middle(browser, name):
    return browser.ask(
        f"(() => {{ const b = document.getElementById('{name}').getBoundingClientRect();"
        " return [b.left, b.top + b.height / 2, b.width] })()"
    )


CUT = "document.getElementById('stage').style.getPropertyValue('--cut')"


def slider(browser, phone):
    """Key, mouse and finger move the cut."""
    browser.ask("document.getElementById('slider').focus()")
    before = browser.ask(CUT)
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    check((before, browser.ask(CUT)) == ("50%", "51%"), "an arrow key moves the slider")
    browser.ask("document.getElementById('stage').scrollIntoView({block: 'center'})")
    left, y, width = middle(browser, "stage")
    x = left + width * 0.25
    if phone:
        for kind, points in (("touchStart", [{"x": x + 40, "y": y}]), ("touchMove", [{"x": x, "y": y}]), ("touchEnd", [])):
            browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    else:
        for kind, at in (("mousePressed", x + 40), ("mouseMoved", x), ("mouseReleased", x)):
            browser.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1)
    check(browser.ask(CUT) == "25%", f"{'a finger' if phone else 'the mouse'} on the picture moves it: {browser.ask(CUT)}")
    shown = browser.ask("getComputedStyle(document.getElementById('before')).clipPath")
    check("75%" in shown.replace("calc(", ""), f"the source is cut there ({shown})")
    browser.ask("(() => { const s = document.getElementById('slider'); s.value = 50; s.dispatchEvent(new Event('input')) })()")


def press(browser, label):
    browser.until(f"document.querySelector('button[aria-label=\"{label}\"]') !== null")
    browser.ask(f"document.querySelector('button[aria-label=\"{label}\"]').click()")


def look(browser, url, screen, target):
    phone = screen["mobile"]
    browser.open(url, screen)
    browser.until("document.readyState === 'complete' && !document.getElementById('compare')?.hidden")
    sizes = browser.until(
        "(() => { const [b, a] = ['before', 'after'].map((n) => document.getElementById(n));"
        " return b.complete && a.complete && a.naturalWidth ?"
        " [b.naturalWidth, b.naturalHeight, a.naturalWidth, a.naturalHeight] : 0 })()"
    )
    check(sizes[2] == 2 * sizes[0] and sizes[3] == 2 * sizes[1], f"the pictures before and after are there: {sizes}")
    wide = browser.ask("document.documentElement.scrollWidth")
    check(wide <= screen["width"], f"nothing is wider than the screen ({wide} of {screen['width']})")
    slider(browser, phone)
    browser.ask("scrollTo(0, 0); document.activeElement.blur()")
    if target:
        browser.picture(target)


def add(browser, root):
    """A file and a URL by the form."""
    sample_video.make(root / "input" / "late.mkv.part", 160, 90, "24", 1)
    (root / "input" / "late.mkv.part").rename(root / "input" / "late.mkv")
    for what, scale in (("input/late.mkv", "3"), ("http://127.0.0.1:9/film.mkv", ""), ("nothing.mkv", "")):
        browser.ask(
            f"(() => {{ document.getElementById('what').value = {json.dumps(what)};"
            f" document.getElementById('scale').value = '{scale}'; document.getElementById('add').requestSubmit() }})()"
        )
        if what == "input/late.mkv":
            browser.until("[...document.querySelectorAll('#queue .name')].some((n) => n.textContent === 'late.mkv')")
            browser.until("document.getElementById('what').value === ''")
        elif what.startswith("http"):
            words = "document.querySelector('#downloads .failed, #notice:not([hidden])')?.textContent"
            browser.until(words)
            check("are not allowed" in browser.ask("document.getElementById('notice').textContent"), "a private URL is refused, with words")
        else:
            browser.until("document.getElementById('notice').textContent.includes('there is no file input/nothing.mkv')")
    print("ok: a file is queued by the form, and what cannot be is told")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=HERE / "target/debug/upscaled")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    parser.add_argument("--save", help="folder for page.png and page-phone.png")
    arguments = parser.parse_args()
    if not arguments.chromium:
        raise SystemExit("no chromium: install it (apt-get install chromium), or name it with --chromium")
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        (root / "input").mkdir()
        (root / "upscaled.toml").write_text("batch_frames = 48\neta_frames = 10\nrescan_seconds = 2\nsettle_ms = 200\nwork_area = \"ram\"\n")
        for name, seconds in ((FILM, 90), ("cells.mkv", 1), ("holidays/beach.mkv", 1)):
            (root / "input" / name).parent.mkdir(exist_ok=True)
            sample_video.make(root / "input" / name, 480, 270, "24", seconds)
        (root / "input/not a film.mkv").write_text("no film")
        (root / "queue.txt").write_text(f"cells.mkv\nnot a film.mkv\n{FILM}\nholidays/beach.mkv\n")
        log = open(root / "console", "w")
        daemon = subprocess.Popen(
            [arguments.program, "daemon", "--root", root, "--listen", "127.0.0.1:0"], stdout=log, stderr=log
        )
        browser = None
        try:
            end = time.monotonic() + 30
            while "http://" not in (text := (root / "console").read_text()):
                if time.monotonic() > end:
                    raise SystemExit(f"the daemon does not come up:\n{text}")
                time.sleep(0.1)
            url = "http://" + text.split("http://", 1)[1].split()[0]
            browser = Browser(arguments.chromium, root / "browser")
            save = Path(arguments.save) if arguments.save else None
            browser.open(url, DESKTOP)
            browser.until("!document.getElementById('compare')?.hidden && (document.querySelector('.failed') !== null)", 240)
            first = browser.ask("document.getElementById('preview-of').textContent")
            look(browser, url, DESKTOP, save and save / "page.png")
            look(browser, url, PHONE, save and save / "page-phone.png")
            browser.until(f"document.getElementById('preview-of').textContent !== '{first}'", 120)
            print(f"ok: the next batch brings other pictures ({first}, then others)")
            press(browser, f"Pause {FILM}")
            browser.until(f"document.getElementById('job').textContent !== '{FILM}'")
            browser.until("document.querySelector('#queue .paused') !== null")
            press(browser, f"Resume {FILM}")
            browser.until("!document.querySelector('#queue .paused')")
            print("ok: a job is paused and goes on")
            check(not browser.errors, f"the page has no errors: {browser.errors}")
            add(browser, root)
            # The browser tells of each refusal.
            others = [error for error in browser.errors if "status of 403" not in error and "status of 404" not in error]
            check(len(browser.errors) == 2 and not others, f"the form has no errors but the two refusals: {others}")
        finally:
            if browser:
                browser.end()
            daemon.terminate()
            daemon.wait()
            # What is mounted for a job outlives its daemon.
            for area in (root / "ram").glob("*"):
                subprocess.run(["umount", "--lazy", area], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
