"""What can be said of a stored picture in three whole numbers, for audits that never open tars.

    picture_facts(jpeg)         {"bytes": 14_203, "brightness": 127, "sharpness": 356}

The grey picture is the JPEG's own luma, at the size at which it is stored, so the numbers of one corpus compare.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from imglish.errors import ImageError

_REACH = 4 * 255
"""Largest value of the Laplacian of bytes."""
_VALUES = np.arange(-_REACH, _REACH + 1, dtype=np.int64)


def picture_facts(jpeg: bytes) -> dict[str, int]:
    """`bytes` of the JPEG, `brightness` (mean luma, 0 to 255), `sharpness` (variance of the Laplacian, rounded down).

    A blurred picture has little sharpness (Pech-Pacheco et al. 2000). Sums of integers, so the same on every machine
    that decodes alike. ImageError `damaged` when the JPEG is not whole.
    """
    try:
        grey = simplejpeg.decode_jpeg(jpeg, "GRAY", fastdct=False)[:, :, 0]
    except ValueError as error:
        raise ImageError("damaged", str(error)) from error
    edges = cv2.Laplacian(grey, cv2.CV_16S).ravel()
    counts = np.bincount(edges + _REACH, minlength=len(_VALUES))
    count, total, squares = edges.size, int(counts @ _VALUES), int(counts @ (_VALUES * _VALUES))
    sharpness = (count * squares - total * total) // (count * count)
    return {"bytes": len(jpeg), "brightness": int(grey.sum(dtype=np.int64)) // count, "sharpness": sharpness}
