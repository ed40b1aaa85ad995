"""The measuring rig of the gateway benchmark: mock backends, load, contenders, CPU accounting.

Not here: what is compared and how it is printed (`benchmarks/gateway.py`).
"""
