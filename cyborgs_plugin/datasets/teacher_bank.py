"""What a teacher sees in whole pictures, kept on disk.

A round of a :class:`MaskBank` holds it: principal components of the features
in half precision, whose bits the bank takes for as many label maps of a
picture. Beside it lies `components.npz`, which turns them into features.
"""
import os
import os.path as osp
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..errors import UserError
from ..files import sha256, written_aside
from ..ops.feature_crops import crop_weights
from .mask_bank import MaskBank, round_path

COMPONENTS = 'components.npz'
Box = tuple[float, float, float, float]
"""Top, left, height and width of a crop, as parts of the picture's sides."""


class TeacherBank:
    """The features of pictures, by key.

    A pickled bank is its path alone: workers map the same files.

    Args:
        root (str): Folder that ``TeacherFeaturesHook`` has written.

    Attributes:
        settings (str): What the features were made by.

    Raises:
        UserError: If the features are of other components.
        FileNotFoundError: If there are none.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.settings, arrays, fingerprint = read_components(root)
        self.bank = MaskBank.open(round_path(root, 0))
        self._decode, self._mean = arrays['decode'], arrays['mean']
        if self.bank.manifest.get('fingerprint') != fingerprint:
            raise UserError(
                f'{self.bank.path} is not of {root}/{COMPONENTS}: one of them '
                'was replaced; delete the folder, and the features are made '
                'again')

    def view(self, key: str, box: Box, cells: tuple[int, int],
             flip: str | None = None) -> np.ndarray:
        """Give the features that a view of a picture shows.

        Args:
            key (str): The picture's key.
            box (Box): The part of the picture.
            cells (tuple[int, int]): Rows and columns of the view's grid.
            flip (str, optional): 'horizontal', 'vertical' or 'diagonal'.
                Defaults to None, as it is.

        Returns:
            np.ndarray: Shape (C, rows, columns), float32; see
            :func:`crop_weights`.
        """
        kept = self.bank.label_maps(key).view('<f2').astype(np.float32)
        rows, columns = (
            crop_weights(box[axis], box[axis + 2], cells[axis],
                         kept.shape[axis + 1], flip in ('diagonal', turned))
            for axis, turned in enumerate(('vertical', 'horizontal')))
        cropped = rows @ kept @ columns.T  # (D, rows, columns)
        features = self._decode @ cropped.reshape(len(kept), -1)
        return (features + self._mean[:, None]).reshape(-1, *cells)

    @property
    def num_bytes(self) -> int:
        """Bytes of all features on the disk, with their index."""
        return self.bank.num_bytes

    def __reduce__(self) -> tuple:
        return TeacherBank, (self.root, )


def read_components(root: str) -> tuple[str, dict[str, np.ndarray], str]:
    """Read what turns a bank's contents into features.

    Returns:
        tuple: Settings, as text; ``mean`` (C, ), ``encode`` and ``decode``
        (C, D), all float32; and the SHA-256 of the file.

    Raises:
        UserError: If the file is damaged.
    """
    path = osp.join(root, COMPONENTS)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {
                name: file[name] for name in ('mean', 'encode', 'decode')
            }
            settings = str(file['settings'])
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f'{path} is damaged ({error}): delete {root}, and the '
                        'features are made again') from error
    return settings, arrays, sha256(path)


def write_components(root: str, settings: str, **arrays: Any) -> None:
    """Write what :func:`read_components` reads, all at once."""
    os.makedirs(root, exist_ok=True)
    with written_aside(osp.join(root, COMPONENTS)) as aside, open(
            aside, 'wb') as file:
        np.savez(file, settings=np.array(settings), **arrays)
