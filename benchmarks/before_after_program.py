"""What no command line tells: the numbers of a small fitted `FedGMI`. before_after.py runs this at each checkout.

    PYTHONPATH=src .venv/bin/python benchmarks/before_after_program.py arrays --out runs/arrays

Writes `numbers.json` into --out. JSON has every float64 in full, so that nothing is lost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedgmi import Federation, FedGMI
from fedgmi.drift import Monitor

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.2, 0.6, 0.8)
SMALL = {"density.hidden": 16, "density.latent": 2, "expert.hidden": 16, "threads": 1}
FEW = {"method.warm_up_rounds": 1, "method.calibration_steps": 3, "method.codewords": 6}


def rows(share: float, n: int, draws: np.random.Generator) -> tuple[Any, Any]:
    """Rows of two kinds with labels: x [n, 3], y [n]."""
    kind = draws.random(n) < share
    x = draws.normal(0.0, 1.0, (n, 3)) + 3.0 * kind[:, None]
    return x, np.where((x[:, 0] > x[:, 1]) ^ kind, "well", "sick")


def fitted(federation: Any, **settings: Any) -> FedGMI:
    """A small model of two components."""
    model = FedGMI(2, rounds=4, epochs=2, batch_size=20, learning_rate=1e-2, seed=3, device="cpu")
    return model.set_params(settings=SMALL | FEW | settings).fit(federation)


def arrays() -> dict[str, Any]:
    """Everything that the estimator tells of a federation of arrays."""
    draws = np.random.default_rng(0)
    names = [f"ward {i}" for i in range(len(SHARES))]
    federation = Federation.from_arrays([rows(share, 60, draws) for share in SHARES], names=names)
    model = fitted(federation)
    x, y = rows(0.4, 25, draws)
    labelled, unlabelled = model.infer_weights(x, y), model.infer_weights(x)
    with tempfile.TemporaryDirectory() as where:
        loaded = FedGMI.load(model.save(Path(where) / "model"))
    return {
        "bound": model.bound_,
        "weights": model.weights_,
        "classes": model.classes_,
        "predict_proba": model.predict_proba(x, client="ward 3"),
        "predict_proba of shares": model.predict_proba(x, client=labelled),
        "predict": model.predict(x, client=0),
        "predict_components": model.predict_components(x, y, client="ward 1"),
        "score_samples": model.score_samples(x, client="ward 2"),
        "score_samples, pooled": model.score_samples(x),
        "log_ratios": model.log_ratios(x, y),
        "component_log_prob": model.component_log_prob(x),
        "sample": model.sample(5, component=1),
        "infer_weights": [labelled.weights, labelled.standard_errors, labelled.identified],
        "infer_weights, no labels": [unlabelled.weights, unlabelled.standard_errors, unlabelled.identified],
        "loaded": [loaded.weights_, loaded.predict_proba(x, client="ward 3"), loaded.log_ratios(x)],
    }


def frame() -> dict[str, Any]:
    """Texts, truth values and numbers in units of their own, standardised."""
    draws = np.random.default_rng(1)
    parts = []
    for i, share in enumerate(SHARES):
        x, y = rows(share, 60, draws)
        table = pd.DataFrame({"ward": f"ward {i}", "age": 1000.0 + 50.0 * x[:, 0], "dose": 1e-3 * x[:, 1], "label": y})
        parts.append(table.assign(smokes=x[:, 2] > 1.0, sex=draws.choice(["f", "m", "x"], 60)))
    federation = Federation.from_frame(pd.concat(parts), client="ward", label="label")
    model = fitted(federation, **{"data.standardise": True})
    new = federation.clients[2].x.numpy()
    return {
        "features": federation.schema.features,
        "rows": [client.x for client in federation.clients],
        "labels": [client.y for client in federation.clients],
        "weights": model.weights_,
        "predict_proba": model.predict_proba(new, client="ward 2"),
        "score_samples": model.score_samples(new),
        "sample": model.sample(5, component=0),
        "infer_weights": model.infer_weights(new).weights,
    }


def drift() -> dict[str, Any]:
    """Monitors over batches whose shares change after the sixth: of one the rows no longer fit, of one shares move."""
    draws = np.random.default_rng(2)
    model = fitted(Federation.from_arrays([rows(share, 60, draws)[0] for share in SHARES]))
    told: dict[str, Any] = {}
    for client, after in (("client-00", 0.9), ("client-02", 0.9)):
        before = SHARES[model.client_names_.index(client)]
        reference = rows(before, 80, draws)[0], None
        monitor = Monitor(model, client, average_run_length=50.0, reference=reference, seed=1)
        for batch in range(12):
            report = monitor.update(rows(before if batch < 6 else after, 30, draws)[0])
            told[f"{client}, batch {batch + 1}"] = {
                "state": report.state,
                "statistics": report.statistics,
                "threshold": report.threshold,
                "change point": report.change_point,
                "weights": [report.weights_before, report.weights_now],
            }
    return told


PARTS = {"arrays": arrays, "frame": frame, "drift": drift}


def plain(value: Any) -> Any:
    """As JSON says it."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value))


def main() -> None:
    """Write the numbers of one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "numbers.json").write_text(json.dumps(PARTS[options.part](), default=plain))


if __name__ == "__main__":
    main()
