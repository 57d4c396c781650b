"""Configs: loaded, checked, and compared with that of a workdir."""
