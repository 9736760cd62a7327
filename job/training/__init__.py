"""Train the model: batches, loss, hard negatives, hyperparameters, checkpoints, health checks.

May import `core` to `evaluation`.
"""
