"""Modules of the benchmarks; the programs are beside this folder."""
