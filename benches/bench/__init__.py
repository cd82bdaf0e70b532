"""What the benchmarks are made of; they are the programs `compare` and `scale` beside this folder."""
