"""A job file for the tiny encoder: trains in seconds; more epochs make it longer."""

JOB = """\
data:
  source: {pairs}
model:
  base: {encoder}
  precision: float32
training:
  epochs: {epochs}
  batch_size: 32
  learning_rate: 3e-3
  rotate: on
evaluation:
  dimensions: [64, 32, 16]
  main_dimension: 32
  permutations: 1000
"""
