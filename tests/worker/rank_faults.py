"""A run on two ranks, and what goes wrong in one of them: code for ``inject``."""

SHARED = """\
model: {name: resnet8}
data: {name: digits, batch_size: 128}
quant: {weight_bits: 4, act_bits: 4}
train: {epochs: 3, lr: 0.05, accumulate: 2}
"""

# Once in each run, at step 25 (in the third epoch), in one rank, by the fault's name.
FAULTS = """
import os, signal, time
from pathlib import Path
import torch

_step = train_step


def train_step(session, *others):
    _step(session, *others)
    rank, name = session.context.world.rank, session.recipe.name
    marker = Path({folder!r}) / (name + ".did")
    if session.train_state.step != 25 or rank != (0 if name.endswith("0") else 1):
        return
    if marker.exists():
        return
    marker.write_text(str(os.getpid()))
    match name.rstrip("0"):
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raising":
            raise OSError("the disk of this rank is gone")
        case "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        case "flipped":
            weight = next(session.model.parameters()).detach().view(-1).view(torch.int32)
            weight[0] ^= 1
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
"""
