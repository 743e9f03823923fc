"""Settings: TOML in and out, overrides, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgmi.errors import ConfigError, FedgmiWarning, UserError, unknown
from fedgmi.methods import METHODS
from fedgmi.runs import config
from fedgmi.runs.config import Config
from fedgmi.settings.run import DataSettings, TrainingSettings

CONFIGS = Path(__file__).parent.parent / "configs"


def message(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        config.load(path, list(overrides))
    return str(raised.value)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("data.label=ill", "did you mean data.label_column?"),
        ("clients=3", "did you mean scenario.n_clients?"),
        ("training.dropout=0.5", "known keys: training.batch_size, training.epochs, training.lr, "),
        ("density.quxx=2", "known keys: density.architecture, density.hidden"),
    ],
)
def test_a_key_is_guessed_by_its_last_part_and_only_where_one_is_like_it(written, told):
    with pytest.raises(ConfigError) as raised:
        config.load(None, [written])
    assert told in str(raised.value)


def test_bundled_default_is_the_public_one():
    assert (CONFIGS / "digits.toml").read_text() == config.DEFAULT.read_text()


def test_default_is_the_promised_federation():
    loaded = config.load(None)
    assert loaded.data.path == "digits"
    scenario = loaded.scenario
    assert (scenario.name, scenario.n_components, scenario.n_clients, scenario.alpha) == ("rotation", 3, 20, 0.5)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_public_config_loads(path):
    assert config.load(path).rounds >= 1


def test_overrides_are_toml_or_plain_text_and_later_ones_win():
    loaded = config.load(
        None,
        [
            "seed=1",
            "seed = 7",
            "data.path=/some/dir with spaces",
            "scenario.name=label-swap",
            'method.name="fedavg"',
            "training.lr=[3e-4, 1e-3]",
            "evaluation.oracle=false",
            "data.feature_columns=['a', 'b']",
            "data.label_column=2024-01-31",
        ],
    )
    assert loaded.seed == 7
    assert loaded.data.path == "/some/dir with spaces"
    assert (loaded.scenario.name, loaded.method.name) == ("label-swap", "fedavg")
    assert loaded.training.lr == [3e-4, 1e-3]
    assert loaded.evaluation.oracle is False
    assert loaded.data.feature_columns == ["a", "b"]
    assert loaded.data.label_column == "2024-01-31"


def test_a_value_with_an_equals_sign_is_kept_whole():
    assert config.load(None, ["data.path=a=b"]).data.path == "a=b"


def test_rates_by_method():
    training = config.load(None, ["training.lr={fedavg=1e-2, default=[1e-3]}"]).training
    assert training.lr_candidates("fedavg") == [1e-2]
    assert training.lr_candidates("local") == [1e-3]


def test_empty_text_unsets():
    assert config.load(None, ["data.test_split="]).data.test_split is None


@pytest.mark.parametrize("key", ["scenario.alhpa", "alpha", "scenaro.alpha", "data.alpha"])
def test_unknown_key_names_the_nearest(key):
    told = message(f"{key}=1.0")
    assert key in told
    assert "did you mean scenario" in told


def test_unknown_key_like_no_other_lists_sections():
    assert "known sections: communication, data, density" in message("zzz.qqq=1")


@pytest.mark.parametrize(
    ("override", "found", "expected"),
    [
        ("seed=true", "true (true or false)", "a whole number"),
        ("rounds=2.5", "2.5 (a number)", "a whole number"),
        ("rounds=0", "0,", "1 or more"),
        ("evaluation.unseen_clients=3", "3,", "less than 1. Likely fix: it is a share: 0.2 is a fifth"),
        ("threads=100000", "100000,", "1024 or less"),
        ("scenario.size_ratio=inf", "Infinity", "a finite number"),
        ("scenario.alpha=nan", "NaN,", "finite number"),
        ("scenario.alpha=-1", "-1,", "greater than 0"),
        ("scenario.alpha=much", '"much" (text)', "a number"),
        ("device=gpu", '"gpu" (text)', "'auto', 'cpu' or 'cuda'"),
        ("method.preset=sketchy", '"sketchy" (text)', "'default', 'plain' or 'sketch'"),
        ("method.n_components=many", '"many" (text)', "a whole number or 'auto'"),
        ("method.n_components=0", "0,", "1 or more"),
        ("data.path=123", "123 (a whole number)", "text. Likely fix: quote it"),
        ("data.path=", "nothing", "text"),
        ("data=3", "3 (a whole number)", "a section with keys of its own"),
        ("training.lr=fast", '"fast" (text)', "a number or a list or a table"),
        ("training.lr=[-1.0]", "-1.0,", "greater than 0"),
        ("training.lr={fedavg='x'}", '"x" (text)', "a number or a list"),
    ],
)
def test_wrong_value_tells_found_and_expected(override, found, expected):
    told = message(override)
    assert f"{override.partition('=')[0]} is {found}" in told
    assert f"expected {expected}" in told or expected in told


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (("method.name=knn-per", "method.neighbours=5,10"), "--set 'method.neighbours=[5, 10]'"),
        (("method.name=knn-per", "method.neighbours=5"), "method.neighbours = [5], on"),
        (("data.feature_columns=age,sex",), """--set 'data.feature_columns=["age", "sex"]'"""),
        (("training.lr=0.1,0.2",), "--set 'training.lr=[0.1, 0.2]'"),
    ],
)
def test_a_list_without_its_brackets_is_shown_with_them(overrides, fix):
    assert fix in message(*overrides)
    assert "brackets" not in message("training.lr=fast")


def test_several_problems_come_in_one_message():
    told = message("seed=-1", "rounds=0", "scenario.alhpa=1")
    assert "3 settings are wrong" in told
    for key in ("seed", "rounds", "scenario.alhpa"):
        assert key in told


METHOD = [
    (("method.name=ifca", "method.codewords=50"), "codewords is a setting of fedgmi, and method.name is ifca"),
    (("method.mu=1.0",), "mu is a setting of fedprox, fedprox-ft and ditto, and method.name is fedgmi"),
    (("method.name=ifca", "method.codeword=50"), "did you mean method.codewords? codewords is a setting of fedgmi"),
    (("method.name=ditto", "method.muu=1.0"), "unknown key method.muu. Likely fix: did you mean method.mu?"),
    (("method.name=ditto", "method.mu=-1.0"), "method.mu is -1.0, expected greater than"),
    (("method=3",), "method is 3 (a whole number), expected a section with keys of its own"),
    (("method.name=dito",), 'method.name: there is no method "dito". Likely fix: did you mean "ditto"?'),
    (
        ("method.ditto.mu=1.0",),
        "an older fedgmi had them: method.ditto. Likely fix: leave out method.ditto, or write [compare.ditto]",
    ),
    (("method.judge_rounds=9",), "Likely fix: write reference_rounds for judge_rounds"),
    (("method.name=cfl", "method.n_components=2"), "method.n_components: cfl has no components"),
    (("method.preset=plain", "method.epsilon=1.0"), "method.epsilon: the preset plain sends no histogram"),
]


@pytest.mark.parametrize(("overrides", "told"), METHOD, ids=lambda value: str(value)[:40])
def test_settings_of_another_method_are_refused(overrides, told):
    assert told in message(*overrides)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_settings_of_its_own_that_read_back(name):
    loaded = config.load(None, [f"method.name={name}", "method.participation=0.5"])
    assert type(loaded.method) is METHODS[name].settings
    assert config.loads(config.dump(loaded), "here") == loaded


def test_a_section_without_a_name_is_of_fedgmi(tmp_path):
    path = tmp_path / "nameless.toml"
    path.write_text("[method]\ncodewords = 7\n")
    assert config.load(path).method == METHODS["fedgmi"].settings(codewords=7)


def test_a_files_own_method_may_be_replaced_whole(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[method]\ncodewords = 7\nparticipation = 0.5\n")
    with pytest.warns(FedgmiWarning, match=r"method\.codewords: settings of fedgmi, which do not count for ditto"):
        loaded = config.load(path, ["method.name=ditto", "method.mu=0.1"])
    assert (loaded.method.name, loaded.method.participation) == ("ditto", 0.5)


COMPARE = [
    ("compare.ditto.muu=1.0", "compare.ditto: unknown key muu. Likely fix: did you mean mu?"),
    ("compare.ditto.codewords=1", "codewords is a setting of fedgmi, and this method is ditto"),
    ("compare.ditto.name=ditto", "leave name out"),
    ("compare.dito.mu=1.0", 'compare: there is no method "dito"'),
    ("compare.fedgmi.codewords=3", "compare.fedgmi: the settings of fedgmi stand in [method]"),
    ("compare.flhc={n_components=2,distance_threshold=1.0}", "flhc merges clusters up to a distance or down"),
]


@pytest.mark.parametrize(("override", "told"), COMPARE)
def test_settings_for_a_comparison_are_as_strict(override, told):
    assert told in message(override)


def test_settings_for_a_comparison_read_back():
    loaded = config.load(None, ["compare.ditto.mu=0.5", "compare.ifca={draws=3,init='balanced'}"])
    assert loaded.compare == {"ditto": {"mu": 0.5}, "ifca": {"draws": 3, "init": "balanced"}}
    assert config.loads(config.dump(loaded), "here") == loaded
    with pytest.raises(ConfigError, match="settings of ditto, ifca are for `fedgmi compare` alone"):
        config.refuse_compare(loaded)


@pytest.mark.parametrize("override", ["seed", "=3", "scenario.=3", ""])
def test_override_without_key_or_value(override):
    assert f'"{override}" is not of the form section.key=value' in message(override)


def test_override_below_a_plain_value():
    assert "seed is 0 (a whole number), so seed.x cannot be set" in message("seed.x=1")


@pytest.mark.parametrize("key", ["scenario.n_components", "method.n_components"])
def test_more_components_than_clients(key):
    told = message(f"{key}=21")
    assert told.startswith(f"{key}: 21 components cannot be told apart from 20 clients")


def test_broken_toml_tells_file_and_line(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("seed = 1\nrounds = \n")
    told = message(path=path)
    assert str(path) in told
    assert "line 2" in told


def test_file_problems(tmp_path):
    assert "there is no such file" in message(path=tmp_path / "missing.toml")
    assert "cannot be read" in message(path=tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in message(path=tmp_path / "binary.toml")
    (tmp_path / "typo.toml").write_text("[method]\nnam = 'x'\n")
    assert f"{tmp_path / 'typo.toml'}: unknown key method.nam. Likely fix: did you mean method.name?" in message(
        path=tmp_path / "typo.toml"
    )


def test_a_setting_of_the_command_line_is_not_the_file_s_fault(tmp_path):
    path = tmp_path / "sound.toml"
    path.write_text("rounds = 3\n")
    told = message("communication.top=0", path=path)
    assert told.startswith("--set: communication.top is 0")
    assert str(path) not in told
    path.write_text("rounds = 0\n")
    assert str(path) in message("communication.top=0.5", path=path)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
method = st.sampled_from([*METHODS, "default"])
rate = st.floats(min_value=1e-300, max_value=1e300)


@given(
    data=st.builds(
        DataSettings, path=text, test_split=st.none() | text, feature_columns=st.none() | st.lists(text, max_size=3)
    ),
    training=st.builds(
        TrainingSettings,
        lr=rate | st.lists(rate, min_size=1, max_size=3) | st.dictionaries(method, rate),
    ),
    seed=st.integers(0, 2**62),
)
def test_dump_reads_back(tmp_path_factory, data, training, seed):
    settings = Config(seed=seed, data=data, training=training)
    path = tmp_path_factory.mktemp("dump", numbered=True) / "config.toml"
    path.write_text(config.dump(settings), encoding="utf-8", newline="")
    assert config.load(path) == settings


def test_a_comparisons_unset_key_reads_back():
    loaded = config.load(None, ["compare.fedem.n_components=", "compare.ifca.draws=3", "compare.ifca.init=balanced"])
    assert loaded.compare["fedem"] == {"n_components": None}
    assert config.loads(config.dump(loaded), "here") == loaded


def test_digest_is_of_the_settings_not_of_the_text(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(config.dump(config.load(None)))
    assert config.load(path).digest() == config.load(None).digest()
    assert config.load(path, ["scenario.alpha=1.0"]).digest() != config.load(None).digest()
    assert config.load(path, ["scenario.alpha=1"]).digest() == config.load(None, ["scenario.alpha=1.0"]).digest()


def test_unknown_name_without_a_near_one():
    told = str(unknown("scenario", "xyz", ["rotation", "labels"], "scenario.name"))
    assert told == 'scenario.name: there is no scenario "xyz". Likely fix: use one of these: labels, rotation.'


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("fedgimm", 'did you mean "fedgmi" or "fedgmm"?'),
        ("fedgmn", 'did you mean "fedgmi"?'),
        ("dito", 'did you mean "ditto"?'),
        ("ifac", 'did you mean "ifca"?'),
        ("FEDGMM", 'did you mean "fedgmi" or "fedgmm"?'),
        ("lokal", 'did you mean "local"?'),
    ],
)
def test_a_misspelt_method_is_told_the_one_with_the_fewest_slips_and_the_default_where_it_is_as_near(written, told):
    assert told in message(f"method.name={written}")


def test_message_without_place_or_fix():
    assert str(UserError("nothing there")) == "nothing there."
