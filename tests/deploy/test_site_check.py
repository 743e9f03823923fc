"""`fedgmi site check`: what was read and matched, and the plain truth about what leaves the site."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from fedgmi import cli
from fedgmi.deploy.link import LinkSettings
from fedgmi.deploy.local.processes import free_port
from fedgmi.deploy.settings import SiteSettings, read
from fedgmi.deploy.site.readiness import hindrances, hints
from fedgmi.deploy.site.site_check import check, leaves, may_come_out, never, warning
from fedgmi.errors import ConfigError, FedgmiError
from fedgmi.privacy.ledger import PrivacyLedger
from fedgmi.storage.files import write_json

SITE = """
name = "ward-1"
held_out = 0.25
[data]
path = "rows.csv"
label_column = "outcome"
"""
FEDERATION = """
name = "hospitals"
sites = 3
[rows]
kind = "tabular"
features = ["age", "sex=f", "sex=m"]
classes = ["well", "ill", "dead"]
ranges = { age = [0, 120] }
[method]
codewords = 10
"""
ROWS = "patient,outcome,sex,age\n" + "".join(f"p{i},{'ill' if i % 4 else 'well'},m,{30 + i}\n" for i in range(8))


@pytest.fixture
def site(tmp_path):
    """A folder with site.toml, federation.toml and the site's rows."""
    for name, text in (("site.toml", SITE), ("federation.toml", FEDERATION), ("rows.csv", ROWS)):
        (tmp_path / name).write_text(text)
    return tmp_path


def checked(folder: Path):
    return check(folder / "site.toml", folder / "federation.toml")


def sets(folder: Path, **values: str | None) -> Path:
    """The folder, with these keys of the method set; None: left out."""
    left_out = [key for key, value in values.items() if value is None]
    lines = [line for line in FEDERATION.splitlines() if line.partition(" = ")[0] not in left_out]
    text = "\n".join([*lines, *(f"{key} = {value}" for key, value in values.items() if value is not None)]) + "\n"
    (folder / "federation.toml").write_text(text)
    return folder


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as raised:
        cli.main(["site", "check", *words])
    return int(raised.value.code or 0)


def words(shown: str) -> str:
    return " ".join(shown.split())


def test_what_was_read_and_matched(site, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert command(str(site / "site.toml")) == 0
    shown = capsys.readouterr().out
    for part in (
        "8 rows: 4 to train on, 4 held out",
        "3 features, as agreed: age, sex=f and sex=m",
        "age within [0, 120], as agreed",
        "labels by outcome; 1 of 3 classes have no row here",
        "dead 0 0",
        "ignored: patient",
        "ward-1 is ready for hospitals.",
    ):
        assert part in words(shown)
    assert max(map(len, shown.splitlines())) <= 80


def test_federation_lies_elsewhere(site, tmp_path, capsys):
    other = tmp_path / "elsewhere" / "agreed.toml"
    other.parent.mkdir()
    (site / "federation.toml").rename(other)
    assert command(str(site / "site.toml")) == 2
    assert "federation.toml: there is no such file. Likely fix: the coordinator's" in (told := capsys.readouterr().err)
    assert "a site gets it from the coordinator" in told
    assert command(str(site / "site.toml"), "--federation", str(other)) == 0


def test_what_leaves_and_what_never_does(site, capsys):
    assert command(str(site / "site.toml")) == 0
    shown = words(capsys.readouterr().out)
    leaving, never = shown.split("Leaves the site")[1].split("Never leaves it")
    for part in (
        "Σx and Σx²",
        "each codeword and label",
        "without noise",
        "its proportions π",
        "updates of the shared densities and experts",
        "accuracy on the 4 rows held out",
    ):
        assert part in leaving
    for part in ("a row or a label as it stands", "its secret", "its own part of the predictor"):
        assert part in never
    assert "can work single rows out of them" in never
    assert "in 5 runs over the same rows" in never
    assert "Without secure aggregation" in never
    assert "the coordinator learns every site's proportions and its histogram of codewords × label" in never


def test_bytes_of_the_histogram_are_those_that_are_sent(site):
    """10 codewords × 3 labels as int32."""
    found = checked(site)
    assert (found.n_counts, found.histogram_bytes) == (30, 120)
    assert any("30 counts, 120 B" in sentence for sentence in leaves(found))


def test_noise_is_named_with_what_it_protects(site):
    found = checked(sets(site, epsilon="0.5"))
    [histogram] = [sentence for sentence in leaves(found) if "codeword and label" in sentence]
    assert "ε = 0.5" in histogram
    assert "any one row" in histogram
    assert "Nothing else in this list is protected" in histogram
    assert "with its noise" in warning(found)


def test_methods_say_what_they_send(site):
    plain = checked(sets(site, preset='"plain"', codewords=None))
    assert plain.histogram_bytes == 0
    assert not any("codeword" in sentence for sentence in (*leaves(plain), warning(plain)))
    assert "every site's proportions" in warning(plain)
    average = checked(sets(site, name='"fedavg"', codewords=None))
    assert not any("proportions" in sentence for sentence in (*leaves(average), warning(average)))
    assert "every site's updates" in warning(average)


def test_what_never_leaves_goes_by_the_program(site):
    """A model that all share is no site's own."""
    average = checked(sets(site, name='"fedavg"', codewords=None))
    assert not any("predictor" in sentence or "secret" in sentence for sentence in never(average))
    assert "single rows" in may_come_out(average)


def test_class_counts_add_up(site):
    found = checked(site)
    assert [name for name, *_ in found.class_counts] == ["well", "ill", "dead"]
    assert [sum(counts) for _, *counts in found.class_counts] == [2, 6, 0]
    assert sum(train for _, train, *_ in found.class_counts) == len(found.rows.train)


def test_nothing_held_out_and_no_labels(site):
    (site / "site.toml").write_text(SITE.replace("0.25", "0"))
    assert not any("accuracy" in sentence for sentence in leaves(checked(site)))
    (site / "federation.toml").write_text(FEDERATION.replace('classes = ["well", "ill", "dead"]', ""))
    found = checked(site)
    assert found.class_counts == ()
    assert found.histogram_bytes == 40
    assert "histogram of codewords;" in warning(found)
    assert found.rows.ignored == ("patient", "outcome")


def test_pictures(site, capsys):
    for name in ("zero", "one"):
        (site / "digits" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 90).save(site / "digits" / name / "1.png")
    (site / "site.toml").write_text('name = "ward-1"\n[data]\npath = "digits"\n')
    rows = '[rows]\nkind = "image"\nshape = [1, 8, 8]\nclasses = ["zero", "one"]\n'
    (site / "federation.toml").write_text(f'name = "digits"\nsites = 2\n{rows}')
    assert command(str(site / "site.toml")) == 0
    assert "pictures of 1×8×8, by image" in words(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("rows.csv", "patient,outcome,sex,age", "patient,outcome,sex,years", "rows.csv: no column 'age'"),
        ("rows.csv", "p3,ill,m,33", "p3,ill,m,330", "rows.csv, column 'age': 1 value is outside"),
        ("rows.csv", "p3,ill", "p3,[bold]", "column 'outcome': label '[bold]' at row 3 is not among"),
        ("site.toml", "held_out", "heldout", "site.toml: unknown key heldout"),
        ("site.toml", "rows.csv", "row.csv", "no such folder or file. Likely fix: did you mean"),
        ("federation.toml", "codewords", "codeword", "federation.toml: unknown key method.codeword"),
        ("federation.toml", "codewords = 10", 'name = "fedgm"', 'method.name: there is no method "fedgm"'),
    ],
)
def test_one_message_and_a_code(site, capsys, file, old, new, message):
    """1 for rows that are not as agreed, 2 for settings that are wrong."""
    (site / file).write_text((site / file).read_text().replace(old, new))
    assert command(str(site / "site.toml")) == (1 if file == "rows.csv" else 2)
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert "Likely fix" in told.err
    assert sum(line.startswith("error: ") for line in told.err.splitlines()) == 1


def test_all_problems_are_listed_at_once(site, capsys):
    """A column that is missing, values out of range, missing values, texts and labels that nobody knows."""
    bad = {"p1,ill,m,31": "p1,ill,x,", "p2,ill,m,32": "p2,,m,320", "p3,ill,m,33": "p3,lost,,33", "p5,": "p5,"}
    text = (site / "rows.csv").read_text()
    for old, new in bad.items():
        text = text.replace(old, new)
    (site / "rows.csv").write_text(text)
    agreed = FEDERATION.replace('"sex=m"]', '"sex=m", "pulse"]')
    (site / "federation.toml").write_text(agreed)
    assert command(str(site / "site.toml")) == 1
    told = capsys.readouterr()
    assert told.out == ""
    *lines, last = told.err.splitlines()
    for part in (
        "no column 'pulse'",
        "column 'age': 1 values are missing, the first at row 1",
        "column 'age': 1 value is outside the federation's range [0, 120], the first 320 at row 2",
        "column 'sex': 1 values are missing, the first at row 3",
        "column 'outcome': 1 values are missing, the first at row 2",
        "column 'outcome': label 'lost' at row 3 is not among the federation's: well, ill, dead",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert last.startswith(f"{len(lines)} problems")
    assert last.endswith("Rows are counted from 0: in a CSV file with a header, row 0 is line 2.")
    assert all(line.startswith("error: ") and "Likely fix" in line for line in lines)


@pytest.mark.parametrize("rule", ["mean", "indicator"])
def test_missing_values_are_counted_by_column(site, capsys, monkeypatch, rule):
    monkeypatch.setenv("COLUMNS", "120")
    text = (site / "rows.csv").read_text().replace("ill,m,31", "ill,,").replace("ill,m,33", "ill,m,")
    (site / "rows.csv").write_text(text)
    marks = ', "sex=(missing)", "age=(missing)"' if rule == "indicator" else ""
    agreed = FEDERATION.replace('"sex=m"]', f'"sex=m"{marks}]\nmissing = "{rule}"').replace("age = [0, 120]", "")
    (site / "federation.toml").write_text(agreed)
    assert command(str(site / "site.toml")) == 0
    shown = words(capsys.readouterr().out)
    assert f"age is missing in 2 of 8 rows (25%): filled by the federation's rule, {rule}" in shown
    assert "sex is missing in 1 of 8 rows" in shown


@pytest.mark.parametrize("rule", ["mean", "indicator"])
def test_texts_that_the_federation_does_not_have_are_named(site, capsys, monkeypatch, rule):
    monkeypatch.setenv("COLUMNS", "200")
    (site / "rows.csv").write_text((site / "rows.csv").read_text().replace("ill,m,31", "ill,M,31"))
    mark = ', "sex=(missing)"' if rule == "indicator" else ""
    (site / "federation.toml").write_text(FEDERATION.replace('"sex=m"]', f'"sex=m"{mark}]\nmissing = "{rule}"'))
    assert command(str(site / "site.toml")) == 0
    shown = words(capsys.readouterr().out)
    assert "of these: sex holds 'M' (1 row), which the federation does not have: it counts as missing" in shown


def test_check_raises_what_the_command_tells(site):
    (site / "rows.csv").unlink()
    with pytest.raises(FedgmiError, match="no such folder or file"):
        checked(site)


def test_an_address_of_site_toml_that_was_not_asked_is_told(site, capsys):
    """ "Ready" sounded as if it had been."""
    (site / "site.toml").write_text((site / "site.toml").read_text() + '[superlink]\naddress = "127.0.0.1:9"\n')
    assert command(str(site / "site.toml")) == 0
    told = words(capsys.readouterr().out)
    assert "Whether a SuperLink answers was not asked." in told
    assert "--superlink 127.0.0.1:9" in told


def test_a_superlink_that_is_not_there(site, capsys):
    nobody = f"127.0.0.1:{free_port()}"
    assert command(str(site / "site.toml"), "--superlink", nobody) == 2
    assert "nothing listens there" in words(capsys.readouterr().err)
    assert command(str(site / "site.toml"), "--superlink", "nowhere") == 2
    assert "no valid port" in words(capsys.readouterr().err)
    assert command(str(site / "site.toml"), "--root-certificates", "ca.crt") == 2
    assert "give --superlink" in words(capsys.readouterr().err)
    assert command(str(site / "site.toml"), "--superlink", nobody, "--root-certificates", "ca.crt") == 2
    assert "ca.crt" in words(capsys.readouterr().err)


def test_help_needs_no_heavy_import():
    script = (
        "import sys\nfrom fedgmi import cli\n"
        "try: cli.main(['site', 'check', '--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('torch', 'datasets', 'sklearn', 'flwr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_required_key_that_is_missing_is_named(tmp_path):
    (tmp_path / "site.toml").write_text('folder = "site"\n\n[data]\npath = "rows"\n')
    with pytest.raises(ConfigError, match=r"site.toml: name is missing. Likely fix: add name = …\."):
        read(SiteSettings, tmp_path / "site.toml")


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nbm9uZQ==\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("of_site", "message"),
    [
        ('[superlink]\nkey = "none"', "superlink.key: there is no file"),
        ('[superlink]\nroot_certificates = "none"', "superlink.root_certificates: there is no file"),
        ('[superlink]\nroot_certificates = "rows.csv"', "not a certificate in PEM. Likely fix: name the ca.crt"),
        ('[superlink]\nkey = "open"', "others may read or change this private key (mode 644)"),
        ('[superlink]\naddress = "https://link.example.org:8000"', "Likely fix: leave it out: link.example.org:8000"),
        ("max_runs = 1", "max_runs: these rows were in 1 run, and it is 1: another run is refused"),
        ('device = "cuda"', "device: no CUDA device"),
    ],
)
def test_what_serve_would_refuse_is_told_before(site, capsys, monkeypatch, of_site, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (site / "open").write_text(KEY)
    (site / "open").chmod(0o644)
    (site / "site").mkdir()
    begun = {"runs": {}, "begun": {checked(site).rows.content: 1}}
    write_json(site / "site" / "guard.json", begun)
    section, plain = ("\n" + of_site, "") if of_site.startswith("[") else ("", of_site)
    (site / "site.toml").write_text(plain + SITE + section)
    assert command(str(site / "site.toml")) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "ward-1 cannot be served yet" in told.out
    assert "is ready" not in told.out


def test_a_run_that_goes_on_is_no_hindrance(site):
    """Its requests are answered to the end, though no other run may begin."""
    (site / "site").mkdir()
    found = checked(site)
    run = {"data": found.rows.content, "index": 0, "last": time.time(), "finished": False, "answers": [], "seen": {}}
    write_json(site / "site" / "guard.json", {"runs": {"0" * 16: run}, "begun": {found.rows.content: 5}})
    assert hindrances(found.settings, found.federation, found.rows, site) == ()


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(site):
    found = checked(site)
    (site / "file").write_text("no folder")
    elsewhere = found.settings.model_copy(update={"folder": "file/below"})
    [told] = hindrances(elsewhere, found.federation, found.rows, site)
    assert "file/below cannot be written" in str(told)
    before = sorted(site.rglob("*"))
    assert hindrances(found.settings, found.federation, found.rows, site) == ()
    assert sorted(site.rglob("*")) == before


def test_noisy_releases_that_are_used_up_are_told(site):
    found = checked(sets(site, epsilon="0.5"))
    limits = {"max_releases": 1, "max_epsilon": 0.9}
    PrivacyLedger(site / "site" / "ledger.json").charge("first", 0.5, 0.0, "histogram")
    told = hindrances(found.settings.model_copy(update=limits), found.federation, found.rows, site)
    assert [error.where for error in told] == ["max_releases", "max_epsilon"]


def test_few_rows_and_a_link_half_said_are_hints(site):
    found = checked(site)
    link = LinkSettings(address="a:1", root_certificates="ca.crt")
    told = list(hints(found.settings.model_copy(update={"superlink": link}), found.rows))
    assert "8 rows are few: 4 held out" in told[0]
    assert told[1] == "[superlink] lacks key: give `fedgmi site serve` --key"


@pytest.mark.parametrize("line", ['held_out = "0.2"', "threads = true", 'max_runs = "5"', '[superlink]\nquick = "yes"'])
def test_a_number_in_quotes_is_no_number(tmp_path, line):
    (tmp_path / "site.toml").write_text(f'name = "ward-1"\ndata = {{ path = "rows" }}\n{line}\n')
    with pytest.raises(ConfigError, match=r"expected (a number|a whole number|true or false)"):
        read(SiteSettings, tmp_path / "site.toml")
