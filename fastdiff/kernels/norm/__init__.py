"""The normalizations of diffusion models, each fused with the operations that follow it.

``group_norm``
    GroupNorm, then SiLU, as in convolutional U-Nets.
``modulated_layer_norm``
    LayerNorm, then a scale and a shift for each image: the adaLN of diffusion transformers.

``reference`` computes them in NumPy float64, and ``triton`` on a GPU. Inputs may have any floating
dtype. On a GPU, statistics are in float32, and their bits are not specified.
"""
