"""`fedgmi site check` lists what steps tell: so no step may send anything and tell nothing."""

from __future__ import annotations

import pytest
from local_post import LocalPost, federation_settings, make_sites, settings_of
from test_coordinator import CHOICES

from federations import gaussian_scenario
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.errors import ConfigError
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.message import flatten
from fedgmi.protocol.rounds import phase_of
from fedgmi.protocol.wire import unpack

THREE = gaussian_scenario(3, 40, separation=4.0)


@pytest.mark.parametrize("choice", [*CHOICES, "epsilon"])
def test_a_step_tells_what_it_sends_and_whether_it_is_single(tmp_path, choice):
    own = {"name": "fedgmi", "epsilon": 1.0} if choice == "epsilon" else {"name": choice} | CHOICES[choice]
    settings = settings_of(**own).model_copy(update={"sites": 3})
    post = LocalPost(make_sites(settings, tmp_path / "sites", THREE))
    Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    program = disclosing(settings.setup().method()).program
    answered = 0
    for (_, request), (_, reply) in zip(post.asked, post.replied, strict=True):
        header = request.header
        if header["kind"] != "step":
            continue
        step = program.steps(phase_of(header["round"], settings.rounds))[header["step"]]
        message = unpack(reply)
        assert step.tells or not flatten(message), f"{step.name!r} sends {sorted(flatten(message))} and tells nothing"
        assert step.single == bool(message.replies), step.name
        answered += 1
    assert answered


def test_federation_settings_have_no_automatic_number_of_components():
    with pytest.raises(ConfigError, match=r"method\.n_components"):
        federation_settings(method={"n_components": "auto"}).setup()
