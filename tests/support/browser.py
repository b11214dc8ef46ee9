"""A headless Chromium whose every request, to whatever host, ends at a server here, which notes it."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--disable-component-update",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--proxy-bypass-list=<-loopback>",
]
# Where Chromium itself asks for the time, for updates and for an account, whatever its flags say.
ITS_OWN = ("google.com", "googleapis.com")
HOST = "http://page.test"

# Loads a page at some widths, and says what a reader of each would meet.
MEASURING = """<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><body><script>
const widths = WIDTHS, found = {};
function luminance(color) {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function background(element) {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
  }
  return "rgb(255, 255, 255)";
}
function contrast(element) {
  const [a, b] = [getComputedStyle(element).color, background(element)].map(luminance);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
function measure(window, width) {
  const page = window.document, all = [...page.body.querySelectorAll("*")];
  const html = elements => elements.map(e => e.outerHTML.slice(0, 200));
  const wide = all.filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline");
  const scrolls = wide.filter(e => getComputedStyle(e).overflowX === "auto");
  const texts = all.filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return {
    width: page.documentElement.scrollWidth,
    outside: html(all.filter(
      e => e.getBoundingClientRect().right > width + 0.5 && !scrolls.some(s => s.contains(e)))),
    overlapping: html(wide.filter(e => ["TD", "TH", "DD", "DT", "PRE", "P", "LI"].includes(e.tagName))),
    scrolling: scrolls.map(e => [e.tabIndex, e.getAttribute("role"), e.getAttribute("aria-label")]),
    faint: html(texts.filter(e => contrast(e) < 4.5)),
    pictures: [...page.images].map(i => [i.alt, i.naturalWidth]),
    tags: [...new Set(all.map(e => e.tagName.toLowerCase()))],
    attributes: [...new Set(all.flatMap(e => e.getAttributeNames()))],
    links: [...page.querySelectorAll("[href]")].map(a => a.href),
    headings: [...page.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(h => Number(h.tagName[1])),
    headless: [...page.querySelectorAll("tr")].filter(r => !r.querySelector("th[scope]")).length,
    language: page.documentElement.lang, title: page.title, text: page.body.innerText, owned: String(window.owned),
  };
}
addEventListener("load", () => {
  for (const width of widths) found[width] = measure(document.getElementById(width).contentWindow, width);
  document.getElementById("found").textContent = JSON.stringify(found);
});
document.write("<pre id='found'></pre>");
for (const width of widths)
  document.write(`<iframe id="${width}" src="/page" style="width: ${width}px; height: 800px; border: 0"></iframe>`);
</script>"""


class Browser:
    """A browser for pages that are given as text.

    Attributes:
        requests: the addresses that were asked for since a page was opened last, but for Chromium's own.
    """

    def __init__(self, port: int, profile: Path) -> None:
        self.requests: list[str] = []
        self.pages: dict[str, str] = {}
        self._command = [
            str(CHROMIUM), *FLAGS, f"--proxy-server=http://127.0.0.1:{port}", f"--user-data-dir={profile}"
        ]  # fmt: skip

    def measure(self, page: str, *widths: int) -> dict[int, dict[str, Any]]:
        """What a reader of a page meets, by the width of the screen in pixels."""
        self.pages = {"/": MEASURING.replace("WIDTHS", json.dumps(widths)), "/page": page}
        dom = self._open("--dump-dom")
        found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
        assert found is not None, dom[:2000]
        return {int(width): told for width, told in json.loads(unescape(found[1])).items()}

    def show(self, page: str, *flags: str) -> str:
        """Open a page and return what the browser prints."""
        self.pages = {"/": page}
        return self._open(*flags)

    def _open(self, *flags: str) -> str:
        self.requests = []
        done = subprocess.run([*self._command, *flags, f"{HOST}/"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """Serve a browser; its profile is kept in a folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = urlsplit(self.path).hostname or self.path.split(":")[0]
            if not host.endswith(ITS_OWN):
                browser.requests.append(self.path)
            content = browser.pages.get(self.path.removeprefix(HOST), "").encode()
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_HEAD = do_CONNECT = do_OPTIONS = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    browser = Browser(server.server_port, profile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield browser
    finally:
        server.shutdown()
        server.server_close()
