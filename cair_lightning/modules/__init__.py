"""LightningModules: orchestration that can be read aloud. Maths, text and files live elsewhere."""
