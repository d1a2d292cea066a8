"""The codes of errors and warnings, and why runs end: each with what it means and an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lsqctl.run import EndReason


class ErrorCode(NamedTuple):
    """What ``lsqctl explain`` says of a code."""

    title: str
    explanation: str
    example: str


CODES: Mapping[str, ErrorCode] = {
    "R001": ErrorCode(
        "not readable as YAML",
        "The file is not UTF-8 text, or the text is not YAML, so nothing more can be said of it. "
        "Indent with spaces, one `key: value` a line, and quote a text that holds `: ` or ` #`.",
        "train:\n\tepochs: 1      # a tab",
    ),
    "R002": ErrorCode(
        "not plain data",
        "A recipe holds words, numbers, true, false, null, lists and sections, each key once. "
        "Tags, merge keys, and texts that unfold to more than 10,000 values are refused.",
        "seed: 1\nseed: 2           # given twice",
    ),
    "R003": ErrorCode(
        "cannot build on another recipe",
        "`extends` names a recipe that does not exist, goes round in a circle, or is a sweep; or a "
        "base (`abstract: true`) was to be run itself. Name a bundled recipe or a path from this "
        "file's folder.",
        "extends: paper/w5a5",
    ),
    "R004": ErrorCode(
        "bad sweep",
        "Lists under `sweep.zip` go side by side and are equally long; `sweep.grid` combines all "
        "its lists. There are at most 1,000 cells, and no two may have the same name and seed.",
        "sweep:\n  zip: {quant.weight_bits: [2, 3], quant.act_bits: [2]}",
    ),
    "R101": ErrorCode(
        "unknown key",
        "No recipe has this key here; a misspelled key would otherwise be ignored in silence. "
        "Correct it as proposed, or remove it.",
        "quant:\n  wieght_bits: 4",
    ),
    "R102": ErrorCode(
        "missing key",
        "A key without a default is neither in the file nor in what it extends. "
        "Only `model.name`, `data.name` and, with `distill`, `distill.teacher` have none.",
        "model:\n  weights: IMAGENET1K_V1",
    ),
    "R103": ErrorCode(
        "bad value",
        "The value is of another type than the key's, or none of its choices. "
        'Types are strict: "4" is text, 4.0 is no whole number, and yes is text in YAML 1.2.',
        'train:\n  epochs: "90"',
    ),
    "R104": ErrorCode(
        "out of range",
        "The value is of the right type but beyond the key's bounds. "
        "Bits are 2 to 8, or 32 for not quantized.",
        "quant:\n  weight_bits: 16",
    ),
    "R105": ErrorCode(
        "keys that do not fit together",
        "Each value is fine alone, but not beside another one, or not for the network's layers as "
        "the other keys quantize them. The hint names the other key, or says what would do.",
        "train:\n  epochs: 5\n  warmup_epochs: 10",
    ),
    "R106": ErrorCode(
        "bad name",
        "A name is one to four parts joined by `/`, each of at most 64 letters, digits, `.`, `_` "
        "and `-`, so that it is safe in paths. A bundled recipe is called by its path.",
        "name: ../x",
    ),
    "R107": ErrorCode(
        "the network has no such layer",
        "A glob of `quant.overrides` matches the name of no layer, or `quant.residual_bits` is set "
        "for a network whose residual additions are not known. `*` matches any text, dots too.",
        'quant:\n  overrides: {"layer9.*": {weight_bits: 8}}',
    ),
    "W001": ErrorCode(
        "high learning rate",
        "A learning rate above 1 makes SGD diverge in nearly every case. The run is still queued.",
        "train:\n  lr: 10",
    ),
    "W002": ErrorCode(
        "seed given twice",
        "The same recipe and seed give the same run. It is queued once.",
        "sweep:\n  grid: {seed: [0, 1, 1]}",
    ),
    "W003": ErrorCode(
        "key not used",
        "Another key switches this one off. Probably one of the two is not meant.",
        "quant:\n  per_channel: true      # while all bits are 32",
    ),
    "W004": ErrorCode(
        "nothing to evaluate",
        "Zero epochs train nothing, and without `model.weights` the weights are random. "
        "The result would be chance.",
        "train:\n  epochs: 0",
    ),
    "W005": ErrorCode(
        "few bits for depthwise convolutions",
        "At 4 bits or less, one step size for a whole depthwise convolution rounds its smaller "
        "channels to zero. Give each channel its own step, or these layers 8 bits.",
        "model: {name: mobilenet_v2}\nquant: {weight_bits: 4, act_bits: 4}",
    ),
    "F001": ErrorCode(
        "no filter",
        "A filter compares columns with values (`= != < <= > >= in like ~`) and joins them by "
        "`and`, `or`, `not` and parentheses. Texts stand in quotes, numbers without.",
        '--where "dataset = cifar10"',
    ),
    "F002": ErrorCode(
        "unknown column",
        "No row has a column of this name. The nearest one is proposed, and all are listed.",
        '--where "weight_bit <= 4"',
    ),
    "F003": ErrorCode(
        "value of another kind",
        "A number is compared with a number, a text with a text, a time with a text in ISO 8601. "
        "Only texts know `like` and `~`, and null only `=` and `!=`.",
        "--where \"weight_bits = '4'\"",
    ),
    "F004": ErrorCode(
        "too much for one filter",
        "A filter has at most 2,000 letters, 100 comparisons and 20 levels of parentheses, and "
        "`in` takes at most 100 values. Ask twice, or for less.",
        '--where "seed in (1, 2, …, 101)"',
    ),
}

END_REASONS: Mapping[str, ErrorCode] = {
    EndReason.COMPLETED: ErrorCode(
        "the run has its result",
        "All epochs were trained and counted; the run stands on the leaderboard.",
        "lsqctl leaderboard",
    ),
    EndReason.PREEMPTED: ErrorCode(
        "asked to stop",
        "The worker got SIGTERM or SIGINT. The run saved a checkpoint and is queued again; it goes "
        "on there, and no attempt is spent.",
        "lsqctl worker --until-empty",
    ),
    EndReason.WORKER_LOST: ErrorCode(
        "its worker went silent",
        "The lease was not renewed in time: the machine died, hung, or lost its network. The run "
        "is queued again and goes on from its newest checkpoint; after three attempts without a "
        "newer one it fails.",
        "lsqctl runs retry RUN",
    ),
    EndReason.INFRA: ErrorCode(
        "the machine failed, or a library",
        "Disk, memory for sharing, database, driver, a process that decodes images, or native code "
        "that crashed (SIGSEGV, SIGABRT; the log has Python's stack). The message says which. The "
        "run is queued again, as after a lost worker.",
        "lsqctl doctor",
    ),
    EndReason.OOM: ErrorCode(
        "out of memory",
        "The GPU or the machine had too little memory. The run is not tried again, for it would "
        "end in the same way: give it smaller batches, or accumulate gradients.",
        "lsqctl submit recipe.yaml --set data.batch_size=64 --set train.accumulate=2",
    ),
    EndReason.DIVERGED: ErrorCode(
        "a number became infinite",
        "The loss, a weight or a step size was no finite number. The last checkpoint is finite. "
        "A lower learning rate is the first thing to try.",
        "lsqctl submit recipe.yaml --set train.lr=0.001",
    ),
    EndReason.DATA: ErrorCode(
        "the data or the weights are not as they must be",
        "A dataset or a weights file is missing, damaged, does not fit the network, or is not what "
        "the run was submitted with. The message names the file. Restore it and retry; what has "
        "changed on purpose is submitted anew.",
        "lsqctl runs retry RUN",
    ),
    EndReason.RECIPE: ErrorCode(
        "the recipe cannot be trained",
        "What only the worker could see contradicts the recipe; the message says what and where.",
        "lsqctl recipe check recipe.yaml",
    ),
    EndReason.CODE: ErrorCode(
        "an error in the code",
        "An exception that nobody expected. The end of the log has the traceback.",
        "lsqctl runs logs RUN",
    ),
    EndReason.PARENT: ErrorCode(
        "a run that it waits for did not succeed",
        "It starts from another run's weights, or is taught by it. That run failed, and this one "
        "with it, or was cancelled, and this one with it. Retry that run: this one follows.",
        "lsqctl runs retry PARENT",
    ),
    EndReason.TIMEOUT: ErrorCode(
        "its time limit was over",
        "An attempt took longer than `--time-limit`. It saved a checkpoint; retried, it goes on.",
        "lsqctl runs retry RUN",
    ),
    EndReason.CANCELLED: ErrorCode(
        "cancelled by a person",
        "`lsqctl runs cancel` stopped it. Its checkpoints are kept; retried, it goes on.",
        "lsqctl runs retry RUN",
    ),
    EndReason.RUNG: ErrorCode(
        "waits at a rung for its sweep",
        "The sweep has `halving`. The run has saved a checkpoint and waits until the other cells "
        "have come as far, failed or been cancelled; then the best go on from theirs.",
        "lsqctl sweep status",
    ),
    EndReason.STOPPED: ErrorCode(
        "fell out of its sweep",
        "The sweep has `halving`, and at a rung this run was not among the best, which went on; "
        "the message says at which, and how it stood. Retried, it is trained to its end.",
        "lsqctl runs retry RUN",
    ),
}
"""Why an attempt or a run ends, by the reason that lists show."""

EXPLANATIONS: Mapping[str, ErrorCode] = {**CODES, **END_REASONS}
"""All that ``lsqctl explain`` answers for."""
