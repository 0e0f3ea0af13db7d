"""Folders of published teachers, in the layout of the downloads of RepDistiller and mdistiller.

``DIR/resnet56_vanilla/ckpt_epoch_240.pth``: one folder per network, with a checkpoint.
"""

import re
from pathlib import Path

from kdbench.errors import CheckpointError
from kdbench.words import list_some

_SUFFIXES = (".pth", ".pt", ".safetensors", ".tar", ".pkl", ".bin")
_EPOCH = re.compile(r"ckpt_epoch_(\d+)\.pth")
# Names of networks in published folders that differ from ours, in lower case.
_PUBLISHED = {"shufflev1": "shufflenetv1", "shufflev2": "shufflenetv2"}
_MOST_LISTED = 20


def find_checkpoint(folder: Path, network: str) -> Path:
    """The checkpoint of a network in a folder of published teachers.

    Args:
        folder: as above, or the folder of one network.
        network: its name, without a library prefix.

    Raises:
        CheckpointError: none or several were found.
    """
    inner = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
    fitting = [folder / name for name in inner if _network_of(name) == network.lower()]
    if not fitting and _network_of(folder.resolve().name) == network.lower():
        fitting = [folder]
    where = f"teacher.weights={str(folder)!r}"
    if not fitting:
        found = list_some(inner or _weight_files(folder), _MOST_LISTED) or "nothing"
        raise CheckpointError(
            f"{where} is a folder without the record of a run and without a teacher {network} (a "
            f"folder such as {network}_vanilla with a checkpoint); found {found}. Give a "
            f"checkpoint file, another folder, or auto to train the teacher here"
        )
    if len(fitting) > 1:
        names = list_some([path.name for path in fitting])
        raise CheckpointError(
            f"{where} has several folders for {network}: {names}; give one of them"
        )
    return _choose_checkpoint(fitting[0], where)


def _choose_checkpoint(folder: Path, where: str) -> Path:
    files = _weight_files(folder)
    epochs = {int(found[1]): name for name in files if (found := _EPOCH.fullmatch(name))}
    if epochs:
        return folder / epochs[max(epochs)]  # the last epoch, as in the authors' programs
    if len(files) == 1:
        return folder / files[0]
    problem = "no checkpoint" if not files else f"several checkpoints: {list_some(files)}"
    raise CheckpointError(f"{where}: {folder} has {problem}; give one file")


def _weight_files(folder: Path) -> list[str]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path.name for path in files if path.suffix in _SUFFIXES]


def _network_of(name: str) -> str:
    """The network in the name of a folder: "wrn_40_2_vanilla", "ResNet50_vanilla".

    Runs of RepDistiller are named ``resnet8x4_cifar100_lr_0.05_decay_0.0005_trial_0``.
    """
    lower = name.lower()
    found = re.match(r"wrn_\d+_\d+(?=_|$)", lower)
    first = found[0] if found else lower.partition("_")[0]
    return _PUBLISHED.get(first, first)
