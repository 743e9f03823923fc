"""Ten hospitals, two kinds of tumour, and nobody tells which is which: how large is each hospital's share of them?

scikit-learn's breast cancer table (569 tumours, 30 measurements), dealt out to hospitals with different shares of
malignant ones. One measurement is cut into a text, so that columns are mixed; the diagnosis is kept from fedgmi, which
sees measurements alone and has to find out what the hospitals are mixtures of.

    python examples/breast_cancer.py
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

from fedgmi import Federation, FedGMI


def tumours(n_hospitals: int, alpha: float, seed: int) -> Any:
    """A table with a row per tumour: measurements, the text `size`, `hospital`, and `malignant`, the hidden truth.

    Hospital i's shares of the two kinds are π_i ~ Dirichlet(α, α); a tumour of kind k goes to i with chance ∝ π_ik.
    """
    rng = np.random.default_rng(seed)
    data = load_breast_cancer(as_frame=True)
    table, kinds = data.data, data.target.to_numpy()
    area = table.pop("mean area")
    table["size"] = np.array(["small", "middling", "large"])[np.searchsorted(area.quantile([1 / 3, 2 / 3]), area)]
    shares = rng.dirichlet([alpha, alpha], size=n_hospitals)
    chances = shares / shares.sum(0)
    table["hospital"] = [f"hospital-{rng.choice(n_hospitals, p=chances[:, kind]):02d}" for kind in kinds]
    return table.assign(malignant=kinds == 0)


def main(arguments: list[str] | None = None) -> float:
    """Fit, compare, and return the mean error of the hospitals' shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)

    everyone = tumours(chosen.hospitals + 1, chosen.alpha, chosen.seed)
    new = everyone["hospital"] == f"hospital-{chosen.hospitals:02d}"
    table, newcomer = everyone[~new], everyone[new]
    federation = Federation.from_frame(table.drop(columns="malignant"), client="hospital")
    model = FedGMI(n_components=2, rounds=chosen.rounds, seed=chosen.seed).fit(federation)

    # Components have no names. Samples come in the table's own units: malignant tumours are the larger ones.
    radius = federation.schema.features.index("mean radius")
    typical = [float(model.sample(500, component=k)[:, radius].mean()) for k in range(2)]
    malignant = int(np.argmax(typical))
    true_radius = table.groupby("malignant")["mean radius"].mean()
    print(f"mean radius of sampled tumours: {min(typical):.1f} and {max(typical):.1f}", end="; ")
    print(f"of real ones: {true_radius[False]:.1f} benign, {true_radius[True]:.1f} malignant\n")

    print("hospital      tumours  malignant  estimated")
    errors = []
    for name, weights in zip(federation.names, model.weights_, strict=True):
        mine = table[table["hospital"] == name]
        true = mine["malignant"].mean()
        errors.append(abs(true - weights[malignant]))
        print(f"{name:12}  {len(mine):7}  {true:9.2f}  {weights[malignant]:9.2f}")
    print(f"mean error {np.mean(errors):.3f}\n")

    rows = newcomer.drop(columns="malignant")
    found = model.infer_weights(rows)
    print(f"a new hospital, nothing trained: {newcomer['malignant'].mean():.2f} malignant, ", end="")
    print(f"estimated {found.weights[malignant]:.2f} ± {found.standard_errors[malignant]:.2f}")
    right = (model.predict_components(rows, client=found).argmax(1) == malignant) == newcomer["malignant"]
    print(f"its tumours told apart rightly: {right.mean():.0%}")
    return float(np.mean(errors))


if __name__ == "__main__":
    main()
