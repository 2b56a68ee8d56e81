"""The normalizations that diffusion models are made of, each fused with what follows it.

``group_norm``
    GroupNorm, then SiLU: the body of convolutional U-Nets.
``modulated_layer_norm``
    LayerNorm, then a shift and a scale of each image: adaLN of diffusion transformers.

``reference`` has them in NumPy float64, ``triton`` on a GPU. Statistics are taken in float32 from
inputs of any floating dtype; no bits are promised.
"""
