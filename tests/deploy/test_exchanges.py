"""How often sites are asked is told before the run, and true."""

from __future__ import annotations

import pytest
from local_post import LocalPost, make_sites, settings_of

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.exchanges import Times, exchanges, line, of_a_round
from fedgmi.methods.disclosing import disclosing


@pytest.mark.parametrize("settings", [
    *(settings_of(preset=name) for name in ("default", "plain", "sketch")), settings_of("fedavg"), settings_of("ditto"),
], ids=lambda settings: f"{settings.method.name} {getattr(settings.method, 'preset', '')}")  # fmt: skip
def test_a_run_asks_as_often_as_it_was_told(tmp_path, settings):
    post = LocalPost(make_sites(settings, tmp_path))
    said: list[str] = []
    Coordinator(settings, post, tmp_path / "out", echo=said.append).run()
    first = post.sites[100].settings.name
    headers = [request.header for name, request in post.asked if name == first and request.header["kind"] != "hello"]
    asked = len({(header["round"], header.get("number")) for header in headers})  # one is asked twice for lost blocks
    program = disclosing(settings.setup().method()).program
    told = exchanges(program, settings.rounds)
    assert told.least <= asked <= told.most
    assert any(line(program, settings.rounds) in each for each in said)
    assert of_a_round(program).least >= 1


def test_words_of_a_count():
    program = settings_of("fedavg").setup().method().program
    assert exchanges(program, 5).least == 5 + 1 + len(program.finish)
    assert line(program, 5).startswith(f"{exchanges(program, 5)} exchanges with every site: 1 in each of 5 rounds, ")
    assert str(Times(2, 2)) == "2"
