"""The page Performance says honestly what was reached."""

import pages
import pandas as pd


def test_targets_say_what_was_missed():
    rules = [
        ("speed", "faster", 2.5, None),
        ("cost", "dearer", None, 1.4),
        ("loss", "same", 0.9, 1.1),
    ]
    measured = pd.DataFrame({
        "quantity": ["speed", "loss", "speed", "cost", "other"], "size": ["4-2-8", None, "8-2-8", "4-2-8", None],
        "value": [2.5, 1.2, 2.4, 1.5, 0.0], "n": [10, 1, 9, 10, 1], "model": [None, "sae", None, None, "sae"],
    })  # fmt: skip
    found = pd.DataFrame(rules, columns=["quantity", "what", "low", "high"]).merge(measured)
    cells = "performance-n07", "performance-n08"
    table = pages.run("performance", *cells, found=found)["reached"]
    assert table.columns.tolist() == [
        "what",
        "features / k / batch",
        "measured",
        "to reach",
        "reached",
        "n",
    ]
    assert table.drop(columns="features / k / batch").to_numpy().tolist() == [
        ["faster", 2.5, "at least 2.5", "yes", 10],
        ["faster", 2.4, "at least 2.5", "no", 9],
        ["dearer", 1.5, "at most 1.4", "no", 10],
        ["same, sae", 1.2, "0.9 to 1.1", "no", 1],
    ]
    sizes = table["features / k / batch"]
    assert sizes.tolist()[:3] == ["4 / 2 / 8", "8 / 2 / 8", "4 / 2 / 8"] and pd.isna(sizes[3])
