"""The mathematics of the system: tensors in, tensors out.

Nothing here knows of a file format other than a checkpoint folder, of clocks, of the environment
or of a global random state. The modules import torch, numpy, safetensors and jaxtyping only.
"""
