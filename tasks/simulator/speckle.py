"""Speckle: the multiplicative noise of radar, added in the archive's decibel code.

Intensity averaged over L looks is gamma distributed with shape L and mean 1. In the code
(20 log10(power) + 50) x 200 that is a shift; the table holds its quantiles in code units for
L = 4.4 looks (Sentinel-1 IW ground range), so that no logarithm is taken at run time.

Decision: speckle is independent from pixel to pixel; the slight correlation of real products is
left out. The two polarisations are independent, as for distributed targets.
"""

import numpy as np
import numpy.typing as npt

from tasks.simulator.randomness import I64, U64

NUM_LOOKS = 4.4

# Quantiles at 0/256 ... 256/256; the two ends are taken at 1/2048 from 0 and 1.
QUANTILES: tuple[int, ...] = (
    -3939, -3017, -2694, -2500, -2359, -2247, -2155, -2076, -2006, -1945, -1889, -1837, -1790,
    -1746, -1705, -1667, -1631, -1596, -1564, -1533, -1503, -1474, -1447, -1421, -1395, -1371,
    -1347, -1324, -1302, -1280, -1259, -1239, -1219, -1199, -1180, -1162, -1144, -1126, -1108,
    -1091, -1075, -1058, -1042, -1027, -1011, -996, -981, -966, -952, -937, -923, -909,
    -896, -882, -869, -856, -843, -830, -817, -805, -793, -780, -768, -756, -745,
    -733, -721, -710, -699, -687, -676, -665, -654, -643, -633, -622, -611, -601,
    -590, -580, -570, -560, -550, -539, -529, -520, -510, -500, -490, -481, -471,
    -461, -452, -442, -433, -424, -414, -405, -396, -387, -378, -369, -360, -351,
    -342, -333, -324, -315, -306, -297, -288, -280, -271, -262, -254, -245, -236,
    -228, -219, -211, -202, -194, -185, -177, -168, -160, -152, -143, -135, -126,
    -118, -110, -101, -93, -85, -76, -68, -60, -52, -43, -35, -27, -19,
    -10, -2, 6, 15, 23, 31, 39, 48, 56, 64, 72, 81, 89,
    97, 106, 114, 122, 131, 139, 148, 156, 164, 173, 181, 190, 198,
    207, 215, 224, 233, 241, 250, 258, 267, 276, 285, 294, 302, 311,
    320, 329, 338, 347, 356, 366, 375, 384, 393, 403, 412, 422, 431,
    441, 450, 460, 470, 480, 490, 500, 510, 520, 531, 541, 552, 562,
    573, 584, 595, 606, 617, 628, 640, 652, 664, 676, 688, 700, 713,
    725, 738, 752, 765, 779, 793, 807, 822, 837, 852, 867, 884, 900,
    917, 935, 953, 971, 991, 1011, 1032, 1054, 1077, 1102, 1127, 1155, 1184,
    1215, 1250, 1287, 1329, 1378, 1434, 1503, 1595, 1738, 2094,
)  # fmt: skip

_TABLE: I64 = np.array(QUANTILES, dtype=np.int64)


def speckle_at(words: U64) -> npt.NDArray[np.int64]:
    """Return speckle in code units for random words, by linear interpolation in integers.

    Args:
        words: uint64 hashes; only the top 20 bits matter.

    Returns:
        int64 array of the same shape, -3939 to 2094, mean near -205 (the logarithm of a
        gamma variable of mean 1 has a negative mean).
    """
    cell = (words >> np.uint64(56)).astype(np.int64)
    part = (words >> np.uint64(44) & np.uint64(0xFFF)).astype(np.int64)
    low, high = _TABLE[cell], _TABLE[cell + 1]
    return low + ((high - low) * part >> 12)
