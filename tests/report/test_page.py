from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from ssl_audio.report import write_probe_report, write_report


def score(value: float):
    interval = [value - 0.1, value + 0.1]
    return {"metric": "accuracy", "value": value, "ci95": interval, "majority": 0.1, "layer": "3"}


@pytest.fixture
def run_dir(tmp_path):
    run = tmp_path / "run-7"
    with SummaryWriter(str(run / "student")) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 5.0 - step, step)
            writer.add_scalar("probe/pitch/accuracy", 0.1, step)
        writer.add_image("figures/usage", np.zeros((8, 8, 3), np.uint8), 4, dataformats="HWC")
    baselines = {"untrained": {"pitch": score(0.2)}, "log-mel": {"pitch": score(0.456)}}
    common = {"suite": "demo", "suite_fingerprint": "x", "warnings": ["clip <b>: too short"]}
    history = [{"step": s, "scores": {"pitch": score(0.3 + s / 10)}} for s in (2, 4)]
    record = {**common, "baselines": baselines, "history": history}
    (run / "student" / "probes.json").write_text(json.dumps(record))
    results = {**common, "scores": {"trained": {"pitch": score(0.789)}, **baselines}}
    (run / "probe").mkdir()
    (run / "probe" / "results.json").write_text(json.dumps(results))
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text("task:\n  name: <spear>\n")
    return run


class Checker(HTMLParser):
    """Every tag is closed in order; collects what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for key, value in attrs if key in ("src", "href", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    page = path.read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loaded
    assert all(source.startswith("data:image/png;base64,") for source in checker.loaded)
    assert "http" not in page
    assert "<script" not in page


def test_the_page_shows_scores_curves_pictures_and_config(run_dir):
    page = write_report(run_dir).read_text()
    assert '<td class="number best" title="layer 3">78.9 ± 10.0</td>' in page
    assert "45.6 ± 10.0" in page
    assert "trained beats log-mel on 1 of 1 tasks" in page
    assert "clip &lt;b&gt;: too short" in page
    assert "train/loss" in page
    assert "probe/pitch/accuracy" not in page  # shown with its baselines instead
    assert "pitch: accuracy, %" in page
    assert 'alt="figures/usage"' in page
    assert "name: &lt;spear&gt;" in page
    assert len(re.findall("<svg", page)) == 2


def test_lower_is_better_failed_tasks_and_layers_of_folds(tmp_path):
    error = {**score(0.2), "metric": "eer", "higher_is_better": False}
    tried = [{"layer": str(i), "validation": 0.1 * i} for i in range(3)]
    query = {**score(0.3), "metric": "mtwv", "folds": [{"grid": tried}]}
    worse = {**error, "value": 0.4}
    results = {
        "suite": "superb",
        "scores": {"trained": {"asv": error, "qbe": query}, "log-mel": {"asv": worse}},
        "failed": ["sd"],
        "warnings": [],
    }
    path = write_probe_report(results, tmp_path / "page.html", "SUPERB")
    page = path.read_text()
    assert '<td>eer ↓</td><td class="number best"' in page
    assert page.count("number best") == 2
    assert "<td>sd</td><td>failed</td>" in page
    assert page.count("<svg") == 1
    assert "qbe: valid score, %" in page


def test_each_suite_of_a_run_is_on_its_page(tmp_path):
    for suite in ("folder", "hear"):
        results = {"suite": suite, "suite_fingerprint": "x", "scores": {"trained": {}}}
        (tmp_path / suite).mkdir()
        (tmp_path / suite / "results.json").write_text(json.dumps(results))
    page = write_report(tmp_path).read_text()
    assert "Probes: suite folder" in page
    assert "Probes: suite hear" in page


def test_a_run_without_results_still_gives_a_page(tmp_path):
    (tmp_path / "results.json").write_text('{"loss": 3}')
    page = write_report(tmp_path, tmp_path / "page.html").read_text()
    assert "<h2>" not in page
    with pytest.raises(ValueError, match="no such run folder"):
        write_report(tmp_path / "nothing")
