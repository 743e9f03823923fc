"""The faults of benchmarks/faults.py at a site, in this process: a spoilt answer leads to what its table expects."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site.opening import Kept, guarded
from fedgmi.protocol.wire import Parcel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module_of(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["raises", "nan", "shape", "large", "large-bounded"])
def test_a_spoilt_answer_is_told_as_the_table_has_it(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cases, faulty = module_of(BENCHMARKS / "fault_cases.py"), module_of(BENCHMARKS / "faulty_site.py")
    fault = cases.FAULTS[name]
    text = cases.FEDERATION.replace("§waiting", fault.waiting).replace("§robust", fault.robust)
    text = text.replace("kmeans_rounds = 3", "kmeans_rounds = 1").replace(f"rounds = {cases.ROUNDS}\n", "rounds = 2\n")
    paths = [cases.write_site(tmp_path / f"site-{i}", i) for i in range(cases.SITES)]
    for place in (tmp_path, *(path.parent for path in paths)):
        (place / "federation.toml").write_text(text)
    spoilt = paths[cases.BAD].parent / "fault.json"
    spoilt.write_text(json.dumps({"kind": fault.kind, "round": 1}))
    answers = [guarded(faulty.answer, Kept(path).open) for path in paths]  # as `fedgmi site serve` has it

    class Faulty:
        """Calls the benchmark's answer of each site."""

        def nodes(self):
            return range(len(paths))

        def ask(self, requests, deadline_s):
            return {node: self.answer(node, request) for node, request in requests.items()}

        def answer(self, node, request):
            request = Parcel(json.loads(json.dumps(request.header)), request.payload)  # as over a network
            return answers[node](request, {"site": str(paths[node])})

    summary = Coordinator(
        read(FederationSettings, tmp_path / "federation.toml"), Faulty(), tmp_path / "out", echo=lambda line: None
    ).run()
    assert not spoilt.exists()
    assert re.search(fault.said, (tmp_path / "out" / "log.txt").read_text())
    assert len(summary["proportions"]) == cases.SITES
