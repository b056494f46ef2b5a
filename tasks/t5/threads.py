"""How many threads torch uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Below this, the work of one layer is too little to share. On two cores a second thread makes a model of a million
#: parameters 1.3 times as fast while nothing else runs, and many times slower as soon as something does, because the
#: threads wait for one another by spinning.
SMALL_PARAMETERS = 20_000_000


@contextmanager
def threads_for(network: Any) -> Iterator[None]:
    """Give a small network one thread for the length of the block, and leave a large one all of them.

    With one thread the weights are also the same on every number of cores.
    """
    import torch

    before = torch.get_num_threads()
    if network.num_parameters() < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
