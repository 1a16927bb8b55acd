"""Every experiment composes; a wrong command line ends in one line before any work is done.

``python tests/test_config.py`` writes the list of config keys anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ssl_audio.config import (
    CONFIG_DIR,
    ConfigError,
    build_stages,
    check_arguments,
    check_command_line,
    options,
    overrides_first,
    register_resolvers,
    repeated_stages,
)

register_resolvers()

ROOT = Path(__file__).resolve().parents[1]
KEYS_FILE = Path(__file__).with_name("config_keys.txt")
EXPERIMENTS = options("experiment")
# What an experiment cannot do without.
NEEDED = {
    "finetune": ["model.source=ENCODER", "data.root=DIR", "data.task=TASK"],
    "finetune_multilabel": ["model.source=ENCODER", "data.root=DIR", "data.task=TASK"],
    "sdhubert": ["model.source=ENCODER"],
    "spear_from_beats": ["teacher=ENCODER"],
    "sylber": ["source=ENCODER"],
    "sylber_from_sdhubert": ["source=ENCODER"],
    "units": ["encoder=ENCODER"],
}
SPEAR = ["speech_quantizer", "audio_quantizer", "tokens", "student", "probe"]
BEATS = [f"{name}_{i}" for i in (1, 2) for name in ("tokenizer", "tokens", "encoder")] + ["probe"]
HUBERT = [f"{name}_{i}" for i in (1, 2) for name in ("units", "tokens", "hubert")]
SYLBER = ["segments", "segment_labels", "stage_1", "stage_2", "units", "segmentation", "probe"]
STAGES = {
    "beats": BEATS,
    "finetune": ["finetune", "probe"],
    "finetune_multilabel": ["finetune", "probe"],
    "hubert": [*HUBERT, "probe"],
    "sdhubert": ["sdhubert", "probe"],
    "spear_audio": SPEAR[1:],
    "spear_from_beats": SPEAR,
    "spear_speech": [SPEAR[0], *SPEAR[2:]],
    "spear_unified": SPEAR,
    "sylber": ["sdhubert", *SYLBER],
    "sylber_from_sdhubert": SYLBER,
    "units": ["units", "segmentation"],
}
TRAIN_AN_ENCODER = ("StudentStage", "FinetuneStage")
ONLINE = "ssl_audio.probes.callback.OnlineProbes"
SCALES = [
    (experiment, scale)
    for experiment in EXPERIMENTS
    for scale in options(f"scale/{experiment.split('_')[0]}")
]
# Every group option whose keys a user may have in a script.
KEY_SETS = [
    *([f"experiment={experiment}"] for experiment in EXPERIMENTS),
    ["experiment=spear_unified", "scale=base", "trainer=ddp"],
    ["experiment=spear_unified", "trainer=ddp_cpu"],
    *(
        ["experiment=spear_unified", f"data={data}"]
        for data in options("data")
        if data not in ("base", "demo")
    ),
    *(
        ["experiment=spear_unified", f"probe={probe}"]
        for probe in options("probe")
        if probe not in ("base", "demo")
    ),
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", list(overrides))


def resolved(*overrides: str) -> dict:
    return OmegaConf.to_container(composed(*overrides), resolve=True, throw_on_missing=True)


def run_train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("experiment", "scale"), SCALES)
def test_every_experiment_composes_at_every_scale(experiment, scale):
    overrides = (f"experiment={experiment}", f"scale={scale}", *NEEDED.get(experiment, []))
    check_command_line(overrides)
    config = resolved(*overrides)
    assert (config["experiment_name"], config["scale_name"]) == (experiment, scale)
    expected = STAGES[experiment]
    if (experiment, scale) == ("sylber", "demo"):  # from nothing
        expected = HUBERT + expected
    stages = build_stages(composed(*overrides, "tokens=stored"))
    assert list(stages) == expected
    runs = {}  # of the probes; a short stage's encoder is met by the last stage
    for name, (_, section) in stages.items():
        if section["_target_"].endswith(TRAIN_AN_ENCODER):
            callback = section["callbacks"]["probes"]
            assert callback["_target_"] == ONLINE, name
            runs[name] = section["task"]["max_steps"] // callback["every_n_steps"]
    assert not runs or max(runs.values()) > 0, runs


@pytest.mark.parametrize("probe", [name for name in options("probe") if name != "base"])
def test_the_suite_after_the_training_does_not_decide_what_is_probed_online(probe):
    root = ["probe.root=DIR"] if probe in ("folder", "hear", "superb", "xares") else []
    stages = resolved("experiment=spear_unified", f"probe={probe}", *root)["stages"]
    callback = stages["student"]["callbacks"]["probes"]
    assert callback is None if probe == "none" else callback["_target_"] == ONLINE
    assert (stages["probe"] is None) == (probe in ("none", "online"))


def test_beats_takes_any_number_of_iterations():
    def sections(*overrides):
        three = ("experiment=beats", "iterations=3", "tokens=online")
        return {name: x for name, (_, x) in build_stages(composed(*three, *overrides)).items()}

    stages = sections()
    expected = [f"{name}_{i}" for i in (1, 2, 3) for name in ("tokenizer", "encoder")]
    assert list(stages) == [*expected, "probe"]
    for i in (2, 3):
        assert stages[f"tokenizer_{i}"]["teacher"] == f"stage:encoder_{i - 1}"
        assert stages[f"encoder_{i}"]["tokenizers"] == {"labels": f"stage:tokenizer_{i}"}
        assert stages[f"encoder_{i}"]["token_stage"] == f"tokens_{i}"
    assert stages["probe"]["encoder"] == "stage:encoder_3"
    assert list(sections("iterations=1")) == ["tokenizer_1", "encoder_1", "probe"]

    plus = sections(
        "+changes.3.tokenizer.teacher=finetuned",
        "+changes.3.encoder.start=stage:encoder_2",
        "+changes.2.tokenizer.task.optimizer.lr=0.5",
    )
    assert plus["tokenizer_3"]["teacher"] == "finetuned"
    assert plus["encoder_3"]["start"] == "stage:encoder_2"
    rates = [plus[f"tokenizer_{i}"]["task"]["optimizer"]["lr"] for i in (2, 3)]
    assert rates == [0.5, stages["tokenizer_3"]["task"]["optimizer"]["lr"]]

    warm = "++changes.later.encoder.start='stage:encoder_{previous}'"
    always = sections(warm, "+changes.3.tokenizer.teacher=finetuned", "++changes.2.encoder.seed=7")
    found = [always[f"encoder_{i}"]["start"] for i in (1, 2, 3)]
    assert found == [None, "stage:encoder_1", "stage:encoder_2"]
    assert always["tokenizer_3"]["teacher"] == "finetuned"
    assert [always[f"encoder_{i}"]["seed"] for i in (2, 3)] == [7, 0]
    assert list(sections(warm, "iterations=1")) == ["tokenizer_1", "encoder_1", "probe"]
    assert sections(warm, "+changes.3.encoder.start=null")["encoder_3"]["start"] is None


@pytest.mark.parametrize(
    ("experiment", "key"), [("hubert", "iterations"), ("sylber", "hubert.iterations")]
)
def test_hubert_takes_any_number_of_iterations(experiment, key):
    def sections(count):
        found = build_stages(composed(f"experiment={experiment}", f"{key}={count}"))
        return {name: section for name, (_, section) in found.items()}

    one, three = sections(1), sections(3)
    assert list(one)[:3] == HUBERT[:3]
    assert list(three)[:9] == [*HUBERT, "units_3", "tokens_3", "hubert_3"]
    starts = [three[f"hubert_{i}"].get("start") for i in (1, 2, 3)]
    assert starts == [None, "stage:hubert_1", "stage:hubert_2"]
    steps = [three[f"hubert_{i}"]["task"]["max_steps"] for i in (1, 2, 3)]
    assert steps[0] > steps[1] == steps[2]
    for count, found in ((1, one), (3, three)):
        name, field = ("sdhubert", "start") if experiment == "sylber" else ("probe", "encoder")
        assert found[name][field] == f"stage:hubert_{count}"


def test_a_number_of_a_file_and_of_the_command_line_are_one_iteration():
    stages = {"encoder": {"start": None, "seed": 0}}
    changes = {2: {"encoder": {"start": "stage:encoder_1"}}, "2": {"encoder": {"seed": 1}}}
    (found,) = repeated_stages({"_repeat_": 2, "_changes_": changes, **stages})
    assert found == ("encoder_2", {"start": "stage:encoder_1", "seed": 1})


def config_keys() -> str:
    """The dotted paths that exist with any of ``KEY_SETS``, one a line."""
    found: set[str] = set()
    for overrides in KEY_SETS:
        needed = NEEDED.get(overrides[0].removeprefix("experiment="), [])
        found.update(_leaves(OmegaConf.to_container(composed(*overrides, *needed))))
    return "".join(f"{key}\n" for key in sorted(found))


def _leaves(config: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        path = f"{prefix}{key}"
        inside = isinstance(value, dict) and value
        found += _leaves(value, f"{path}.") if inside else [path]
    return found


def test_the_set_of_config_keys_is_frozen():
    assert config_keys() == KEYS_FILE.read_text(), (
        "keys of the config have changed; users' scripts name them. If the change is meant, say "
        "so in CHANGELOG.md and run: python tests/test_config.py"
    )


WRONG = [
    ([], "choose an experiment: experiment=beats|finetune|"),
    (["experiment=spear_unifed"], "experiment=spear_unifed does not exist; choose one of "),
    (["experiment="], "experiment= does not exist; choose one of "),
    (["experiment=spear_unified", "scale=bse"], "scale=bse does not exist; choose one of base, "),
    (["experiment=spear_unified", "data=foldr"], "data=foldr does not exist; choose one of base, "),
    (
        ["experiment=spear_unified", "task.optimzer.lr=0.01"],
        "task.optimzer.lr is not a key of this experiment; did you mean task.optimizer.lr?",
    ),
    (
        ["experiment=spear_unified", "lr=0.01"],
        "lr is not a key of this experiment; did you mean tokenizer.speech.train.lr?",
    ),
    (["experiment=spear_unified", "+seedd=1"], "unknown key seedd; did you mean seed?"),
    (
        ["experiment=spear_unified", "data.root=[1"],
        "'data.root=[1' is not an override such as data.num_workers=2",
    ),
    (["experiment=spear_unified", "seed=0,1"], "add --multirun to your command line"),
    (["experiment=spear_unified", "data=huggingface"], "data.path has no value; add data.path=…"),
    (["experiment=spear_unified", "task.max_steps=${nothing}"], "key 'nothing' not found"),
    (["experiment=spear_from_beats"], "teacher has no value; add teacher=…"),
    (["experiment=finetune"], "has no value; add "),
    (["experiment=beats", "scale=xlarge"], "scale/beats=xlarge does not exist; choose one of base"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), WRONG)
def test_a_wrong_command_line_is_one_line(overrides, message):
    with pytest.raises(ConfigError) as caught:
        check_command_line(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cfg job experiment=beats task.optimzer.lr=1", "did you mean task.optimizer.lr?"),
        ("--cfg job --resolve experiment=beats sede=1", "sede is not a key of this experiment"),
        ("--multirun experiment=beats seed=0,1 task.optimzer.lr=1", "did you mean task.optimizer"),
        ("-m experiment=beats task.max_stepz=1,2", "did you mean task.max_steps?"),
        ("-m experiment=beats,speer", "experiment=speer does not exist; choose one of"),
        ("-m seed=0,1", "choose an experiment"),
        ("-m experiment=beats data.root=[1", "'data.root=[1' is not an override"),
    ],
)
def test_a_wrong_key_beside_a_flag_is_one_line_too(arguments, message):
    with pytest.raises(ConfigError) as caught:
        check_arguments(arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_may_stand_on_both_sides_of_a_flag():
    words = ["experiment=beats", "--cfg", "job", "~callbacks", "scale=base", "--config-dir=x"]
    expected = ["experiment=beats", "~callbacks", "scale=base", "--cfg", "job", "--config-dir=x"]
    assert overrides_first(words) == expected
    check_arguments(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--cfg job",
        "--cfg job experiment=spear_from_beats",  # without the teacher it cannot run, but be shown
        "-m experiment=beats,spear_unified seed=range(0,3) hydra/launcher=basic",
        "-m experiment=beats task.optimizer.lr=interval(0,1)",
    ],
)
def test_what_hydra_can_do_is_let_through(arguments):
    check_arguments(arguments.split())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokens=strored", "tokens=strored: choose online or stored"),
        ("seed=abc", "seed=abc: choose a whole number from 0 on"),
        ("seed=-1", "seed=-1: choose a whole number from 0 on"),
        (
            "+trainer.max_stepz=3",
            "trainer.max_stepz is not an argument of lightning.pytorch.Trainer; "
            "did you mean trainer.max_steps?",
        ),
        (
            "+data.batch_seconds=3",
            "data.batch_seconds is not an argument of ssl_audio.data.datamodule.DataModule; "
            "did you mean data.batch_sec?",
        ),
        (
            "+task.token_mix=null",
            "task.token_mix is not an argument of ssl_audio.tasks.spear.SpearTask; "
            "did you mean task.token_mixing?",
        ),
    ],
)
def test_a_wrong_value_or_argument_is_found_before_the_first_stage(override, message):
    overrides = ["experiment=spear_unified", override]
    check_command_line(overrides)  # composes: only the code knows better
    with pytest.raises(ConfigError) as caught:
        build_stages(composed(*overrides))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iterations=0", "iterations=0: choose a whole number from 1 on"),
        (
            "+changes.4.encoder.seed=1",
            "changes.4 is of none of the 2 iterations: choose one from 2 on or later, or take it "
            "out with ~changes.4",
        ),
        (
            "+changes.2.encoder=1",
            "changes.2: a change goes to a key of one of tokenizer, tokens, encoder",
        ),
        ("+changes.2.encodr.seed=1", "changes.2.encodr: the stages are tokenizer, tokens, encoder"),
    ],
)
def test_a_wrong_iteration_is_one_line(override, message):
    with pytest.raises(ConfigError) as caught:
        check_command_line(["experiment=beats", override])
    assert str(caught.value) == message


def test_a_stage_that_comes_later_cannot_be_built_on():
    overrides = ["experiment=beats", "+changes.2.encoder.start=stage:encoder_2"]
    with pytest.raises(ConfigError, match=r"^stages\.encoder_2 needs stage:encoder_2; before"):
        build_stages(composed(*overrides))


def test_the_program_prints_one_line_and_exits_with_2(tmp_path):
    finished = run_train("experiment=spear_unified", "+data.sorce=1", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: data.sorce is not an argument of ")
    assert finished.stderr.count("\n") == 1
    assert finished.stdout == ""


def test_cfg_job_prints_the_config(tmp_path):
    finished = run_train("experiment=spear_audio", "scale=large", "--cfg", "job", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    printed = OmegaConf.create(finished.stdout)
    assert (printed.experiment_name, printed.scale_name) == ("spear_audio", "large")
    assert printed.model.config.encoder_dim == 1024
    assert not list(tmp_path.iterdir())


def test_the_run_name_depends_on_all_that_decides_the_result():
    def name(*overrides: str) -> str:
        return composed("experiment=spear_unified", *overrides).name

    same = [
        name(),
        name("tokens=stored"),  # what the demo scale has
        name("trainer.devices=4", "trainer=ddp"),
        name("data.num_workers=7"),
        name("paths.cache=/elsewhere", "data.source.cache_dir=/elsewhere"),
        name("callbacks.figures=null"),
        name("trainer.val_check_interval=7"),
        name("hydra/launcher=basic"),
    ]
    assert len(set(same)) == 1
    different = [
        name("task.optimizer.lr=0.01"),
        name("seed=1"),
        name("tokens=online"),
        name("tokenizer.audio.num_codebooks=8"),
        name("data.batch_sec=61"),
        name("debug=dry_run"),
    ]
    assert len({same[0], *different}) == 1 + len(different)
    assert same[0].startswith("spear_unified-demo-")
    assert different[-1].startswith("dry_run-spear_unified-demo-")


if __name__ == "__main__":
    KEYS_FILE.write_text(config_keys())
