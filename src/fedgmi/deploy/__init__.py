"""A federation over several machines: what a site does, what the coordinator does, and what passes between them."""
