"""How torch computes while a configuration is at work: settings of the whole process, which are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lada_al.run.config import Config


@contextmanager
def arithmetic(config: Config) -> Iterator[None]:
    """Inside the block, the CPU threads that `config` names, and only those algorithms of cuDNN that repeat their bits.

    Blocks may be nested; blocks of different threads of Python that overlap have to lie within one more.
    """
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = deterministic
        if config.threads:
            torch.set_num_threads(threads)
