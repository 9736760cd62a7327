"""All inputs of a training with the tiny encoder, for one or several trainings."""

from dataclasses import dataclass, replace

from job.data.dataset import Dataset, load_dataset
from job.evaluation.baseline import Baseline, score_base
from job.evaluation.evaluate import choose_dimensions
from job.model.device import Machine
from job.model.encoder import load_model
from job.runtime.signals import StopSignal
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace
from job.training.hyperparameters import resolve
from job.training.train import TrainingContext, train
from job.training.trainer import TrainingInputs, build_trainer

CPU = Machine("cpu", "float32", "as the spec says")


@dataclass
class TinyTraining:
    spec: JobSpec
    dataset: Dataset
    base: Baseline
    workspace: Workspace

    def load(self, machine=CPU):
        return load_model(self.spec.model, machine)

    def train(self, stop=None, workspace=None, model=None, spec=None, **context):
        """Train like a run."""
        return train(
            model or self.load(),
            self.dataset.training,
            self.base.validation,
            spec or self.spec.training,
            TrainingContext(workspace or self.workspace, stop or StopSignal(), **context),
        )

    def trainer(self, *callbacks, model=None, base=None, neighbors=None):
        """Build its trainer; `base` replaces the base model's score."""
        model, validation = model or self.load(), self.base.validation
        if base is not None:
            validation = replace(validation, base=base)
        hyperparameters = resolve(self.spec.training, model, self.dataset.train)
        inputs = TrainingInputs(
            model, self.dataset.train, validation, hyperparameters.spec, neighbors
        )
        return build_trainer(inputs, self.workspace, StopSignal(), callbacks=callbacks)


def tiny_training(spec, folder):
    """Load the data and score the base model of a spec."""
    dataset = load_dataset(spec.data, {}, spec.evaluation.protocol, spec.evaluation.folds)
    model = load_model(spec.model, CPU)
    base = score_base(model, dataset, choose_dimensions(spec.evaluation, model.width), spec)
    return TinyTraining(spec, dataset, base, Workspace(folder))
