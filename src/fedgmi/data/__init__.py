"""Data: sources, scenarios, and the federation that they make.

From the ground up: `standardise`, `ranges`, `rows` and `validate`; then `sources` (data sets in memory); then `build`,
`encode` and `federation`; then `scenarios`. A file imports from those below its own, and who needs rows loads no
scenario.
"""
