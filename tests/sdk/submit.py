"""Run our image with SageMaker's own SDK, as a user would write it; embedtune is not installed.

Usage: submit.py ROLE IMAGE HYPERPARAMETERS (a JSON object)
"""

import json
import sys

from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig
from sagemaker.train import ModelTrainer

role, image, hyperparameters = sys.argv[1:]
trainer = ModelTrainer(
    base_job_name="by-sdk",
    role=role,
    training_image=image,
    compute=Compute(instance_type="ml.g5.2xlarge", instance_count=1),
    hyperparameters=json.loads(hyperparameters),
    input_data_config=[
        InputData(channel_name="data", data_source="s3://box/pairs/"),
        InputData(channel_name="model", data_source="s3://box/encoder/"),
    ],
    output_data_config=OutputDataConfig(s3_output_path="s3://box/results"),
)
trainer.train(wait=True, logs=False)
