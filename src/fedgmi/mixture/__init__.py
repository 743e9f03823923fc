"""The mathematics of mixtures: from evidence and word counts to proportions. Nothing here knows of methods."""
