"""The job as a SageMaker training job."""
