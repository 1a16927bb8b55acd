from __future__ import annotations

import io

from rich.console import Console

from ssl_audio.probes.table import markdown_table, print_table, summary


def record(value: float, spread: float = 0.05):
    ends = [value - spread, value + spread / 2]
    return {"metric": "accuracy", "value": value, "ci95": ends, "majority": 0.1, "layer": "2"}


RESULTS = {
    "suite": "demo",
    "warnings": ["clip [7]: truncated"],
    "scores": {
        "log-mel": {"pitch": record(0.9), "voice": record(0.4)},
        "trained": {"pitch": record(0.8), "voice": record(0.7)},
        "untrained": {"pitch": record(0.8), "voice": record(0.2)},
    },
}


def test_summary_counts_wins_without_ties():
    expected = "trained beats untrained on 1 of 2 tasks; trained beats log-mel on 1 of 2 tasks"
    assert summary(RESULTS) == expected


def test_the_table_shows_scores_spread_and_what_was_left_out():
    console = Console(file=io.StringIO(), width=120)
    print_table(RESULTS, console)
    text = console.file.getvalue()
    header = next(line for line in text.splitlines() if "task" in line)
    assert header.index("trained") < header.index("untrained") < header.index("log-mel")
    assert "70.0 ± 5.0" in text
    assert "left out: clip [7]: truncated" in text


def test_a_table_in_a_file_folds_no_name():
    name = "a_task_with_a_name_of_more_than_forty_characters"
    scores = {f"encoder {i}": {name: record(0.5)} for i in range(6)}
    console = Console(file=io.StringIO())
    print_table({"suite": "demo", "scores": scores}, console)
    assert name in console.file.getvalue()


def test_markdown_has_one_row_per_task_and_a_dash_where_a_score_is_missing():
    scores = {**RESULTS["scores"], "untrained": {"pitch": record(0.8)}}
    lines = markdown_table({**RESULTS, "scores": scores}).splitlines()
    assert lines[0] == "| task | metric | trained | untrained | log-mel | majority |"
    assert lines[3] == "| voice | accuracy | 70.0 ± 5.0 | - | 40.0 ± 5.0 | 10.0 |"


def test_errors_are_better_when_lower_and_scales_differ():
    def error(value: float):
        return {**record(value), "metric": "eer", "higher_is_better": False, "scale": 1}

    scores = {"trained": {"voice": error(0.2)}, "untrained": {"voice": error(0.4)}}
    results = {"suite": "superb", "warnings": [], "scores": scores}
    assert summary(results) == "trained beats untrained on 1 of 1 tasks"
    assert "| voice | eer ↓ | 0.2 ± 0.0 | 0.4 ± 0.0 |" in markdown_table(results)
    output = io.StringIO()
    print_table(results, Console(file=output, force_terminal=True, width=120))
    shown = output.getvalue()
    assert "\x1b[1m0.2" in shown
    assert "\x1b[1m0.4" not in shown
