"""Run the job as a SageMaker training job."""
