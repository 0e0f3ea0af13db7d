"""The model card of an exported network, for readers who have only its files."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.files import write_atomic
from kdbench.records.collect import RunFolder
from kdbench.records.evaluation import Evaluation
from kdbench.records.metric import of_split
from kdbench.words import join_words

FILE = "README.md"
SAFETENSORS, ONNX = "model.safetensors", "model.onnx"

_OF_RUN = ("pair", "method", "temperature", "objective", "seed", "epochs", "protocol", "precision")
_NOT_IN_TABLE = ("classes", "command")  # too long for it
_PROTOCOLS = {
    "paper": "Trained on the whole train split; its accuracy on the test set was measured after "
    "each epoch.",
    "strict": "Every choice was made on a validation split; the test set was used once.",
}


def collect_facts(
    evaluation: Evaluation,
    run: RunFolder | None,
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> dict[str, str]:
    """The metadata of the exported files and of the card, as strings.

    Args:
        evaluation: of the network.
        run: the run of the network; None for weights from elsewhere.
        model: config of the network.
        recipe: config of the dataset.
    """
    facts: dict[str, Any] = {
        "arch": model["arch"],
        "dataset": recipe["name"],
        "dataset_digest": evaluation.dataset["digest"],
        "num_classes": recipe["num_classes"],
        "image": [recipe["channels"], recipe["image_size"], recipe["image_size"]],
        "mean": list(recipe["mean"]),
        "std": list(recipe["std"]),
    }
    if run is not None:
        facts |= {name: getattr(run.record, name) for name in (*_OF_RUN, "run_key")}
        facts["command"] = shlex.join(run.record.command)
    # Readers of weight files expect "top1" to be the accuracy on the test set.
    split = evaluation.dataset["split"]
    prefix = "" if split == "test" else f"{split}_"
    facts |= {f"{prefix}{name}": value for name, value in evaluation.metrics.items()}
    facts["measured_on"] = evaluation.describe_split()
    facts["selection"] = evaluation.network["selection"]
    facts["weights_digest"] = evaluation.network["weights_digest"]
    facts["classes"] = list(evaluation.class_names)
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in facts.items()}


def write_card(
    path: Path, facts: Mapping[str, str], model: Mapping[str, Any], files: Mapping[str, str]
) -> None:
    """Writes the card as Markdown.

    Args:
        path: of the card.
        facts: from ``collect_facts``.
        model: config of the network.
        files: name of each exported file -> description of its check.
    """
    rows = [f"| {k} | {_inline(v)} |" for k, v in facts.items() if k not in _NOT_IN_TABLE]
    sections = [
        "---\ntags: [image-classification, knowledge-distillation, kdbench]\n"
        f"datasets: [{json.dumps(facts['dataset'])}]\nmetrics: [accuracy]\n---",
        f"# {_inline(facts['arch'])} on {_inline(facts['dataset'])}",
        "\n".join(f"- `{name}`: {check}" for name, check in files.items()),
        "\n".join(["| | |", "|---|---|", *rows]),
        _explain_units(),
        "## Use",
        *_usage(facts, model, files),
        "## How it was made",
        _origin(facts),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(facts)),
    ]
    write_atomic(path, ("\n\n".join(sections) + "\n").encode())


def _explain_units() -> str:
    """What the numbers of a split are: "top1, ece: %; nll: nats"."""
    found: dict[str, list[str]] = {}
    for name, metric in {**of_split(needs_teacher=False), **of_split(needs_teacher=True)}.items():
        if metric.unit:
            found.setdefault(metric.unit, []).append(f"`{name}`")
    units = "; ".join(f"{join_words(names)}: {unit}" for unit, names in found.items())
    return (
        f"Units: {units}. `agreement`, `teacher_kl` and `logit_correlation` are with the teacher."
    )


def _usage(
    facts: Mapping[str, str], model: Mapping[str, Any], files: Mapping[str, str]
) -> list[str]:
    module, _, name = model["_target_"].rpartition(".")
    arguments = ", ".join(f"{k}={v!r}" for k, v in model.items() if not k.startswith("_"))
    texts = [
        f"Images are {facts['image']} (channels, height, width), RGB if there are three channels, "
        f"scaled to [0, 1] and normalized with `mean` and `std` of the table. The output is one "
        f"logit per class; `classes` in the metadata of the files lists their names in order."
    ]
    if SAFETENSORS in files:
        texts.append(
            f"    from {module} import {name}\n"
            f"    from safetensors.torch import load_file\n"
            f"    network = {name}({arguments}).eval()\n"
            f'    network.load_state_dict(load_file("{SAFETENSORS}"))'
        )
    if ONNX in files:
        texts.append(
            f"    import onnxruntime\n"
            f'    session = onnxruntime.InferenceSession("{ONNX}")\n'
            f'    logits = session.run(["logits"], {{"images": images}})[0]'
        )
    return texts


def _origin(facts: Mapping[str, str]) -> str:
    if "command" not in facts:
        return "The weights come from a file; how they were trained is unknown."
    return f"With kdbench, by\n\n    {facts['command']}"


def _limits(facts: Mapping[str, str]) -> list[str]:
    limits = [
        f"It predicts one of {facts['num_classes']} classes for any image, and was evaluated only "
        f"on images of {_inline(facts['dataset'])}.",
        "Its calibration error is `ece` on these images, and likely larger on others.",
        "The licenses of the data and of the teacher, if any, apply; they are not stated here.",
    ]
    if "protocol" in facts:
        limits = [
            f"One run with one seed: another seed gives another accuracy. "
            f"{_PROTOCOLS[facts['protocol']]}",
            f"The weights are those of the {facts['selection']}.",
            *limits,
        ]
    return limits


def _inline(text: str) -> str:
    """Escapes a text for a Markdown table cell."""
    flat = " ".join(text.split()).replace("\\", "\\\\")
    for char in "|`*_[]<>":
        flat = flat.replace(char, f"\\{char}")
    return flat
