"""The report in a real browser: no errors, no requests, nothing overlaps, at three widths."""

import json
import shutil
import subprocess

import pytest

from tests.helpers.synthetic import SURVEY, write_run, write_study, write_trouble
from tests.report.test_page import QUOTE, SCRIPT, make_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]

# Opens the report in a frame of a given width, and writes down what it measures. The frame's own
# policy forbids scripts; this page has none.
PROBE = """<!DOCTYPE html><body style="margin:0">
<iframe src="{url}" style="width:{width}px;height:900px;border:0"></iframe><pre></pre><script>
const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1
  || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
onload = () => {{
  const page = document.querySelector('iframe').contentDocument, faults = [];
  for (const closed of page.querySelectorAll('details')) closed.open = true;
  const wide = page.documentElement.scrollWidth;
  if (wide > {width}) faults.push('page is ' + wide + ' wide');
  for (const svg of page.querySelectorAll('svg.chart, svg.strip')) {{
    const room = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')];
    const boxes = texts.map(text => text.getBoundingClientRect());
    boxes.forEach((box, i) => {{
      const name = svg.getAttribute('aria-label') + ': ' + texts[i].textContent;
      if (box.left < room.left - 1 || box.right > room.right + 1 || box.bottom > room.bottom + 1)
        faults.push('cut off: ' + name);
      boxes.slice(0, i).forEach((other, j) => {{
        if (!apart(box, other)) faults.push('overlap: ' + name + ' / ' + texts[j].textContent);
      }});
    }});
  }}
  const saved = [...page.querySelectorAll('a[download]')];
  for (const link of saved) link.click();
  const images = saved.map(link => Object.assign(new Image(), {{ src: link.href }}));
  const tell = () => document.querySelector('pre').textContent = JSON.stringify({{
    widths: images.map(image => image.naturalWidth),
    faults: faults, title: page.title, charts: page.querySelectorAll('svg.chart').length,
    scripts: page.scripts.length, paper: getComputedStyle(page.body).backgroundColor }});
  Promise.all(images.map(image => image.decode())).catch(e => faults.push('' + e)).then(tell);
}};
</script></body>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    write_study(folder, SURVEY)
    write_trouble(folder, SURVEY)
    write_run(folder, SURVEY, "a_b", SCRIPT, QUOTE, 0, dataset=SCRIPT, pair=QUOTE)
    make_page(folder)
    return folder / "report" / "report.html"


def browse(place, *options, url, size=(1300, 1000)):
    """Opens a page; returns its document, what was said, and the URLs that were asked for."""
    log = place / "net.json"
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        f"--user-data-dir={place / 'profile'}",
        f"--log-net-log={log}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=20000",
        f"--window-size={size[0]},{size[1]}",
        *options,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said, requests(log)


def requests(log):
    """URLs over a network; the browser's own errands (updates, accounts) are not of the page."""
    events = json.loads(log.read_text())["events"]
    urls = {event.get("params", {}).get("url", "") for event in events}
    own = ("google", "gstatic", "chrome")
    return {url for url in urls if url.startswith("http") and not any(o in url for o in own)}


def measure(place, report, width, *options):
    probe = place / "probe.html"
    probe.write_text(PROBE.format(url=report.as_uri(), width=width))
    options = ("--allow-file-access-from-files", "--dump-dom", *options)
    document, said, asked = browse(place, *options, url=probe.as_uri())
    assert (said, asked) == ([], set())
    return json.loads(document.split("<pre>")[1].split("</pre>")[0])


def test_says_nothing_and_asks_nobody(report, tmp_path):
    document, said, asked = browse(tmp_path, "--dump-dom", url=report.as_uri())
    assert (said, asked) == ([], set())
    assert "<script" not in document
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document


def test_such_things_would_be_noticed(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://nowhere.invalid/x.png'><script>missing()</script>")
    _, said, asked = browse(tmp_path, "--dump-dom", url=bad.as_uri())
    assert any("missing is not defined" in line for line in said)
    assert asked == {"http://nowhere.invalid/x.png"}


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_fits(report, tmp_path, width):
    found = measure(tmp_path, report, width)
    assert found["faults"] == []
    assert found["charts"] > 50
    assert found["scripts"] == 0
    assert len(found["widths"]) >= 12
    assert min(found["widths"]) > 200  # what the links save can be read as pictures


def test_follows_light_and_dark(report, tmp_path):
    papers = []
    for scheme in (0, 1):  # dark, light
        option = f"--blink-settings=preferredColorScheme={scheme}"
        papers.append(measure(tmp_path, report, 800, option)["paper"])
    assert papers == ["rgb(21, 24, 29)", "rgb(255, 255, 255)"]


def test_prints(report, tmp_path):
    paper = tmp_path / "report.pdf"
    browse(tmp_path, f"--print-to-pdf={paper}", url=report.as_uri())
    assert paper.read_bytes()[:5] == b"%PDF-"
