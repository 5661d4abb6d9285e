"""The embedded world: a generated data set of real clips and a tiny Qwen2.5-VL, for the demo and the tests."""
