"""Sizes of the networks that methods need besides the classifier: the column Param. of the paper's Table 1."""

from __future__ import annotations

from lada_al import models
from lada_al.data import Task
from lada_al.methods import Method
from lada_al.models import Network
from lada_al.run.config import Config

# Table 1 is for ResNet-18 and these inputs, whatever data set its row is for.
OF_TABLE_1 = Task("fashion", (1, 28, 28), 10, [0.286], [0.353])


def networks(config: Config, task: Task) -> list[Network]:
    """The networks of a configuration's method for a data set."""
    method, (channels, height, width) = config.chosen, task.shape
    net = models.MODELS[config.model](channels, (height, width), task.classes, 0.0)
    found = method.acquisition.make(config, task, net).networks()
    if method.augmentation is not None:
        found = found + method.augmentation.make(config, task, net).networks(learn=method.learn)
    return found


def in_table(networks: list[Network]) -> int:
    """What Table 1 counts."""
    return sum(network.parameters for network in networks if network.in_table)


def of_table_1(method: Method) -> list[Network]:
    """A method's networks as Table 1 counts them."""
    return networks(Config(method=method.name, model="resnet18", dataset="fashion"), OF_TABLE_1)
